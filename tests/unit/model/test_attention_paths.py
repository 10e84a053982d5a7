"""Every attention path gives what a plain float64 attention over each sequence's own tokens gives."""

import math
import random

import pytest
import torch
from torch import Tensor

from workers.model import attention_torch, fp8
from workers.model.attention import PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.attention import FlashInfer, gathered
from workers.model.fp8 import KVScales

HEADS, KV_HEADS, DIM, BLOCK = 6, 2, 16, 4
FEATURES = [
    {},
    {"window": 5},
    {"softcap": 1.5},
    {"sinks": True},
    {"window": 3, "softcap": 2.0},
    {"window": 6, "sinks": True},
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_case(spans: list[tuple[int, int]], seed: int) -> tuple[Tensor, Tensor, Tensor, PagedMeta]:
    """Query, caches and meta of chunks [start, end), over shuffled blocks."""
    blocks = list(range(64))
    random.Random(seed).shuffle(blocks)
    chunks = []
    for start, end in spans:
        taken = [blocks.pop() for _ in range(-(-end // BLOCK))]
        chunks.append(Chunk(token_ids=[0] * (end - start), start=start, block_ids=taken, num_sequence_tokens=end))
    generator = torch.Generator().manual_seed(seed)
    k_cache, v_cache = torch.randn(2, 64, BLOCK, KV_HEADS, DIM, generator=generator)
    meta = build_meta(chunks, BLOCK)
    return torch.randn(meta.num_tokens, HEADS, DIM, generator=generator), k_cache, v_cache, meta


def plain(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    scoring: Scoring,
) -> Tensor:
    scale, window, softcap, sinks = scoring
    output = torch.zeros(query.shape, dtype=torch.float64)
    for i, blocks in enumerate(meta.block_ids):
        for row in range(meta.query_starts[i], meta.query_starts[i + 1]):
            position = meta.num_contexts[i] + row - meta.query_starts[i]
            seen = range(max(0, position - window + 1) if window else 0, position + 1)
            for head in range(HEADS):
                scores = []
                for p in seen:
                    key = k_cache[blocks[p // BLOCK], p % BLOCK, head // (HEADS // KV_HEADS)].double()
                    score = float(query[row, head].double() @ key) * scale
                    scores.append(softcap * math.tanh(score / softcap) if softcap else score)
                total = sum(map(math.exp, scores)) + (math.exp(float(sinks[head])) if sinks is not None else 0)
                for p, score in zip(seen, scores, strict=True):
                    value = v_cache[blocks[p // BLOCK], p % BLOCK, head // (HEADS // KV_HEADS)].double()
                    output[row, head] += math.exp(score) / total * value
    return output.float()


def _scoring(features: dict[str, object]) -> Scoring:
    sinks = torch.linspace(-1, 2, HEADS) if features.get("sinks") else None
    return Scoring(**{"scale": 0.3, **features, "sinks": sinks})  # type: ignore[arg-type]


@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_the_portable_path_attends_to_a_ragged_mix(features: dict[str, object]) -> None:
    case = make_case([(0, 1), (8, 9), (0, 7), (5, 11), (3, 4), (0, 4)], seed=1)
    found = attention_torch.paged_attention(*case, _scoring(features))
    assert found == pytest.approx(plain(*case, _scoring(features)), abs=2e-6)


@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_the_gathered_path_attends_to_decodes_and_to_padding(features: dict[str, object]) -> None:
    query, k_cache, v_cache, meta = make_case([(0, 1), (8, 9), (3, 4), (12, 13)], seed=2)
    tables = torch.zeros(4, 8, dtype=torch.int32)
    tables[:, : meta.block_tables.shape[1]] = meta.block_tables
    found = gathered(query, k_cache, v_cache, tables, meta.positions + 1, _scoring(features))
    want = plain(query, k_cache, v_cache, meta, _scoring(features))
    assert found == pytest.approx(want, abs=2e-6)


def in_fp8(cache: Tensor, factor: Tensor) -> Tensor:
    return fp8.to_bytes(cache.transpose(1, 2), factor.reciprocal()).transpose(1, 2).contiguous().view(fp8.DTYPE)


@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_the_gathered_path_reads_fp8(features: dict[str, object]) -> None:
    query, k_cache, v_cache, meta = make_case([(0, 1), (8, 9), (3, 4), (12, 13)], seed=2)
    tables = torch.zeros(4, 8, dtype=torch.int32)
    tables[:, : meta.block_tables.shape[1]] = meta.block_tables
    scales = KVScales.of(torch.tensor([[0.5, 0.01], [2.0, 0.3]]))
    keys, values = in_fp8(k_cache, scales.key), in_fp8(v_cache, scales.value)
    found = gathered(query, keys, values, tables, meta.positions + 1, _scoring(features), scales)
    want = attention_torch.paged_attention(query, keys, values, meta, _scoring(features), scales)
    torch.testing.assert_close(found, want, atol=2e-6, rtol=0)
    read = [fp8.read(kept, factor, torch.float32) for kept, factor in zip((keys, values), scales.factors, strict=True)]
    torch.testing.assert_close(want, plain(query, *read, meta, _scoring(features)), atol=2e-6, rtol=0)


class OneScale:
    """In place of FlashInfer's wrapper: of FP8 it knows the numbers alone."""

    def __init__(self, meta: PagedMeta) -> None:
        self.meta = meta

    def plan(self, *args: object, q_data_type: torch.dtype, kv_data_type: torch.dtype, **_: object) -> None:
        self.planned = q_data_type, kv_data_type

    def run(self, query: Tensor, caches: tuple[Tensor, Tensor]) -> Tensor:
        assert self.planned == (query.dtype, caches[0].dtype)
        keys, values = (cache.float() for cache in caches)
        return attention_torch.paged_attention(query, keys, values, self.meta, Scoring(0.3))


class WithOneScale(FlashInfer):
    def _make(self) -> OneScale:
        assert self._meta is not None
        return OneScale(self._meta)


def test_a_factor_for_each_head_goes_around_what_knows_none() -> None:
    query, k_cache, v_cache, meta = make_case([(0, 1), (8, 9), (3, 7)], seed=5)
    scales = KVScales.of(torch.tensor([[0.5, 0.01], [2.0, 0.3]]))
    keys, values = in_fp8(k_cache, scales.key), in_fp8(v_cache, scales.value)
    attention = WithOneScale(torch.device("cpu"), torch.empty(0))
    found = attention(query, keys, values, meta, Scoring(0.3), scales)
    want = attention_torch.paged_attention(query, keys, values, meta, Scoring(0.3), scales)
    torch.testing.assert_close(found, want, atol=2e-6, rtol=0)


def test_blocks_that_lie_in_a_row_give_what_scattered_ones_give() -> None:
    query, k_cache, v_cache, meta = make_case([(0, 9)], seed=3)
    (blocks,) = meta.block_ids
    moved_k, moved_v = torch.zeros_like(k_cache), torch.zeros_like(v_cache)
    for target, source in enumerate(blocks, start=20):
        moved_k[target], moved_v[target] = k_cache[source], v_cache[source]
    row = Chunk(token_ids=[0] * 9, start=0, block_ids=[20, 21, 22], num_sequence_tokens=9)
    scoring = _scoring({})
    scattered = attention_torch.paged_attention(query, k_cache, v_cache, meta, scoring)
    in_a_row = attention_torch.paged_attention(query, moved_k, moved_v, build_meta([row], BLOCK), scoring)
    assert in_a_row.equal(scattered)


def test_the_meta_says_where_each_token_lies() -> None:
    chunks = [
        Chunk(token_ids=[7], start=5, block_ids=[9, 3, 8], num_sequence_tokens=6),
        Chunk(token_ids=[1, 2, 3], start=2, block_ids=[4, 6], num_sequence_tokens=20),
    ]
    meta = build_meta(chunks, 4)
    assert meta.query_starts == (0, 1, 4)
    assert meta.num_contexts == (5, 2)
    assert meta.positions.tolist() == [5, 2, 3, 4]
    assert meta.slot_mapping.tolist() == [3 * 4 + 1, 4 * 4 + 2, 4 * 4 + 3, 6 * 4]
    assert meta.block_tables.tolist() == [[9, 3], [4, 6]]
    assert [list(blocks) for blocks in meta.block_ids] == [[9, 3], [4, 6]]
