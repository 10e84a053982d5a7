"""The C attention kernel against the definition, written out in float64."""

import functools
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from workers.model import attention_torch
from workers.model.attention import PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk
from workers.model.cpu import attention as cpu_attention
from workers.model.cpu import native

pytestmark = pytest.mark.skipif(not cpu_attention.available(), reason="no C compiler: the kernel is not there")

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def chunks_of(rng: random.Random, lengths: list[tuple[int, int]], block_size: int, num_blocks: int) -> list[Chunk]:
    """One chunk per (context, queries), over blocks in random order."""
    free = list(range(num_blocks))
    rng.shuffle(free)
    made = []
    for context, queries in lengths:
        needed = -(-(context + queries) // block_size)
        blocks, free = free[:needed], free[needed:]
        assert len(blocks) == needed
        made.append(
            Chunk(token_ids=[1] * queries, start=context, block_ids=blocks, num_sequence_tokens=context + queries)
        )
    return made


def defined(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    scoring: Scoring,
) -> Tensor:
    """Token by token, head by head, in float64."""
    scale, window, softcap, sinks = scoring
    output = torch.zeros(query.shape, dtype=torch.float64)
    num_heads, num_kv_heads = query.shape[1], k_cache.shape[2]
    for i, blocks in enumerate(meta.block_ids):
        keys = k_cache[list(blocks)].flatten(0, 1).double()  # [tokens, num_kv_heads, head_dim]
        values = v_cache[list(blocks)].flatten(0, 1).double()
        for row in range(meta.query_starts[i], meta.query_starts[i + 1]):
            position = meta.num_contexts[i] + row - meta.query_starts[i]
            first = 0 if window is None else max(0, position - window + 1)
            for head in range(num_heads):
                kv = head // (num_heads // num_kv_heads)
                scores = keys[first : position + 1, kv] @ query[row, head].double() * scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    scores = torch.cat([scores, sinks[head : head + 1].double()])
                weights = scores.softmax(0)[: position + 1 - first]
                output[row, head] = weights @ values[first : position + 1, kv]
    return output


def case(seed: int) -> dict[str, object]:
    rng = random.Random(seed)
    num_kv_heads, group = rng.choice([1, 2, 3, 8]), rng.choice([1, 2, 3, 4, 7])
    lengths = [(rng.choice([0, 0, 1, 15, 16, 63, 64, 200, 700]), rng.choice([1, 1, 1, 2, 5, 33, 70])) for _ in range(4)]
    return {
        "rng": rng,
        "lengths": lengths,
        "num_kv_heads": num_kv_heads,
        "num_heads": num_kv_heads * group,
        "head_dim": rng.choice([8, 20, 32, 64, 80, 128]),
        "block_size": rng.choice([1, 5, 16, 64]),
        "window": rng.choice([None, None, 1, 7, 64, 100]),
        "softcap": rng.choice([None, None, 2.0, 50.0]),
        "sinks": rng.random() < 0.3,
    }


@functools.cache
def inputs_of(seed: int, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor, Tensor, PagedMeta, Scoring], Tensor]:
    """What the kernel is given, and what the definition makes of it."""
    options = case(seed)
    block_size, head_dim = options["block_size"], options["head_dim"]
    num_kv_heads, num_heads = options["num_kv_heads"], options["num_heads"]
    assert isinstance(block_size, int)
    assert isinstance(head_dim, int)
    assert isinstance(num_kv_heads, int)
    assert isinstance(num_heads, int)
    generator = torch.Generator().manual_seed(seed)
    num_blocks = sum(-(-(a + b) // block_size) for a, b in options["lengths"]) + 3  # type: ignore[attr-defined]
    chunks = chunks_of(options["rng"], options["lengths"], block_size, num_blocks)  # type: ignore[arg-type]
    meta = build_meta(chunks, block_size)
    # as in the store: both caches are views of one tensor; as in a model: queries come with heads before tokens
    cache = torch.randn(2, num_blocks, block_size, num_kv_heads, head_dim, generator=generator).to(dtype)
    query = torch.randn(num_heads, meta.num_tokens, head_dim, generator=generator).to(dtype).transpose(0, 1) * 3
    sinks = torch.randn(num_heads, generator=generator) if options["sinks"] else None
    scoring = Scoring(head_dim**-0.5, options["window"], options["softcap"], sinks)  # type: ignore[arg-type]
    return (query, cache[0], cache[1], meta, scoring), defined(query, cache[0], cache[1], meta, scoring)


@pytest.fixture(params=[1, 2])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("isa", "_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(12))
def test_a_ragged_batch_over_shuffled_blocks_gives_what_the_definition_gives(seed: int, dtype: torch.dtype) -> None:
    inputs, expected = inputs_of(seed, dtype)
    found = cpu_attention.paged_attention(*inputs)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("seed", range(12))
def test_the_dot_products_give_what_the_definition_gives_where_amx_would_be_taken(seed: int) -> None:
    library = native.load("attention_tiles")
    assert library is not None
    if library.baton_attention_tiles_choose(cpu_attention.MOST_TILES) != 2:
        pytest.skip("no AMX: the other test is of the dot products already")
    inputs, expected = inputs_of(seed, torch.bfloat16)
    try:
        assert library.baton_attention_tiles_choose(1) == 1
        found = cpu_attention.paged_attention(*inputs)
    finally:
        library.baton_attention_tiles_choose(cpu_attention.MOST_TILES)
    assert (found.double() - expected).abs().max() < TOLERANCE[torch.bfloat16]


def test_two_long_chunks_of_one_length_each_see_their_own_keys() -> None:
    lengths = [(0, 300), (0, 300), (16, 300)]  # by torch in float32
    meta = build_meta(chunks_of(random.Random(1), lengths, 16, 80), 16)
    generator = torch.Generator().manual_seed(1)
    cache = torch.randn(2, 80, 16, 1, 8, generator=generator)
    query = torch.randn(meta.num_tokens, 2, 8, generator=generator)
    found = cpu_attention.paged_attention(query, cache[0], cache[1], meta, Scoring(0.3))
    expected = attention_torch.paged_attention(query, cache[0], cache[1], meta, Scoring(0.3))
    assert (found - expected).abs().max() < TOLERANCE[torch.float32]
