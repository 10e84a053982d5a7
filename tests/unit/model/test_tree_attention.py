"""Every attention path gives a node of a tree what it would have at the end of its own path, read alone."""

import functools
import random

import pytest
import torch
from torch import Tensor

from workers.model import attention_torch, trees
from workers.model.attention import PagedAttention, PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk
from workers.model.cpu import attention as cpu_attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
BLOCK, NUM_BLOCKS = 5, 200


def random_tree(rng: random.Random, size: int) -> list[int]:
    """Each token after any before it, often the last."""
    return [rng.choice([place - 1, place - 1, rng.randint(-1, place - 1)]) for place in range(size)]


def chunks_of(rng: random.Random) -> list[Chunk]:
    """Trees of several sizes among decodes, a chain and a prompt."""
    free = list(range(NUM_BLOCKS))
    rng.shuffle(free)
    made = []
    sizes = [(0, 3, True), (12, 1, False), (7, 8, True), (200, 25, True), (30, 62, True), (9, 6, False), (3, 40, False)]
    for context, num_tokens, is_tree in sizes:
        parents = random_tree(rng, num_tokens) if is_tree else ()
        end = context + num_tokens + is_tree
        blocks = [free.pop() for _ in range(-(-end // BLOCK))]
        made.append(
            Chunk(
                token_ids=[1] * (end - context),
                start=context,
                block_ids=blocks,
                num_sequence_tokens=end,
                parents=parents,
            )
        )
    return made


def defined(query: Tensor, k_cache: Tensor, v_cache: Tensor, meta: PagedMeta, scoring: Scoring) -> Tensor:
    """Row by row and head by head, in float64, over the row's own path."""
    output = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // k_cache.shape[2]
    for i, blocks in enumerate(meta.block_ids):
        keys, values = (
            cache[list(blocks)].flatten(0, 1).double().repeat_interleave(group, 1) for cache in (k_cache, v_cache)
        )
        context, begin = meta.num_contexts[i], meta.query_starts[i]
        for row in range(meta.query_starts[i + 1] - begin):
            own = range(row) if i not in meta.trees else trees.path_to(meta.trees[i], row - 1)
            places = [*range(context), *(context + at + (i in meta.trees) for at in own)]
            places += [context] if i in meta.trees else [context + row]
            places = sorted(set(places))[-(scoring.window or len(keys)) :]
            scores = torch.einsum("nhd,hd->hn", keys[places], query[begin + row].double()) * scoring.scale
            if scoring.softcap is not None:
                scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
            if scoring.sinks is not None:
                scores = torch.cat([scores, scoring.sinks.double()[:, None]], dim=1)
            weights = scores.softmax(1)[:, : len(places)]
            output[begin + row] = torch.einsum("hn,nhd->hd", weights, values[places])
    return output


SCORINGS = [
    {},
    {"window": 1},
    {"window": 4},
    {"window": 70, "sinks": True},
    {"softcap": 2.0},
    {"window": 6, "softcap": 2.0, "sinks": True},
]


@functools.cache
def case(
    number: int, dtype: torch.dtype, head_dim: int
) -> tuple[tuple[Tensor, Tensor, Tensor, PagedMeta, Scoring], Tensor]:
    generator = torch.Generator().manual_seed(number)
    num_kv_heads, num_heads = (2, 6) if number % 2 else (3, 3)
    meta = build_meta(chunks_of(random.Random(number)), BLOCK)
    cache = torch.randn(2, NUM_BLOCKS, BLOCK, num_kv_heads, head_dim, generator=generator).to(dtype)
    query = torch.randn(num_heads, meta.num_tokens, head_dim, generator=generator).to(dtype).transpose(0, 1) * 2
    features = SCORINGS[number]
    sinks = torch.randn(num_heads, generator=generator) if features.get("sinks") else None
    scoring = Scoring(**{"scale": head_dim**-0.5, **features, "sinks": sinks})  # type: ignore[arg-type]
    return (query, cache[0], cache[1], meta, scoring), defined(query, cache[0], cache[1], meta, scoring)


def check(path: PagedAttention, number: int, dtype: torch.dtype, head_dim: int) -> None:
    inputs, expected = case(number, dtype, head_dim)
    assert (path(*inputs).double() - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("number", range(len(SCORINGS)))
def test_torch(number: int, dtype: torch.dtype) -> None:
    check(attention_torch.paged_attention, number, dtype, 32)


@pytest.mark.usefixtures("isa")
@pytest.mark.skipif(not cpu_attention.available(), reason="no C compiler: the kernel is not there")
@pytest.mark.parametrize("head_dim", [20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("number", range(len(SCORINGS)))
def test_the_kernels(number: int, dtype: torch.dtype, head_dim: int) -> None:
    check(cpu_attention.paged_attention, number, dtype, head_dim)


def test_what_a_tree_sees_is_found_once_for_all_layers() -> None:
    inputs, _ = case(1, torch.float32, 32)
    attention_torch.paged_attention(*inputs)
    made = dict(inputs[3].masks)
    attention_torch.paged_attention(*inputs)
    assert {chunk for chunk, _, _ in made} == set(inputs[3].trees)
    assert all(inputs[3].masks[key] is mask for key, mask in made.items())


def test_positions_follow_the_depth_and_slots_the_order() -> None:
    chunk = Chunk(token_ids=[5] * 5, start=6, block_ids=[9, 3, 4], num_sequence_tokens=11, parents=[-1, -1, 0, 2])
    meta = build_meta([chunk], 4)
    assert meta.positions.tolist() == [6, 7, 7, 8, 9]
    assert meta.slot_mapping.tolist() == [14, 15, 16, 17, 18]
    rows = meta.seen_rows(None)
    assert rows is not None
    assert rows.tolist() == [0b1, 0b11, 0b101, 0b1011, 0b11011]
