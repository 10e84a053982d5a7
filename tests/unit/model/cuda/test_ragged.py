"""The ragged kernels give what the portable path gives, however queries lie and work is divided."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.model.test_tree_attention import BLOCK, NUM_BLOCKS, chunks_of
from workers.model import attention_torch
from workers.model.attention import PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.inputs import side_by_side
from workers.model.cuda.ragged import RaggedAttention, put, tiling
from workers.model.fp8 import KVScales

pytest.importorskip("triton", reason="triton is not installed (make kernels)")

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}
SCORINGS = {
    "plain": Scoring(0.2),
    "window": Scoring(0.2, window=9),
    "cap": Scoring(0.2, softcap=1.5),
    "all": Scoring(0.2, window=20, softcap=2.0, sinks=torch.linspace(-1, 2, 6)),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def caches_of(
    meta: PagedMeta, num_kv_heads: int, head_dim: int, dtype: torch.dtype, num_blocks: int = NUM_BLOCKS
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (2, num_blocks, meta.block_size, num_kv_heads, head_dim)
    return torch.randn(*size, generator=generator).to(dtype)


def query_of(meta: PagedMeta, num_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(meta.num_tokens, num_heads, head_dim, generator=torch.Generator().manual_seed(2)).to(dtype)


def assert_right(found: Tensor, query: Tensor, keys: Tensor, values: Tensor, meta: PagedMeta, scoring: Scoring) -> None:
    want = attention_torch.paged_attention(query.float(), keys.float(), values.float(), meta, scoring)
    torch.testing.assert_close(found.float(), want, atol=TOLERANCE[query.dtype], rtol=0)


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_prompts_tokens_and_trees_of_one_step(dtype: torch.dtype, scoring: Scoring) -> None:
    meta = build_meta(chunks_of(random.Random(3)), BLOCK)
    keys, values = caches_of(meta, 2, 16, dtype)
    query = query_of(meta, 6, 16, dtype)
    assert_right(RaggedAttention(CPU)(query, keys, values, meta, scoring), query, keys, values, meta, scoring)


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 4, 24), (7, 1, 40), (18, 1, 64), (2, 1, 256)])
def test_heads_in_any_number_and_size(num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    meta = _meta([(0, 3), (21, 1), (0, 1), (9, 20)], block_size=16)
    keys, values = caches_of(meta, num_kv_heads, head_dim, torch.float32)
    query = query_of(meta, num_heads, head_dim, torch.float32)
    scoring = Scoring(head_dim**-0.5)
    assert_right(RaggedAttention(CPU)(query, keys, values, meta, scoring), query, keys, values, meta, scoring)


@settings(max_examples=8, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), min_size=1, max_size=5),
    block_size=st.sampled_from([16, 32, 128]),
    num_programs=st.integers(1, 60),
    window=st.sampled_from([None, 1, 33]),
)
def test_however_many_share_the_work(
    spans: list[tuple[int, int]], block_size: int, num_programs: int, window: int | None
) -> None:
    meta = _meta(spans, block_size)
    keys, values = caches_of(meta, 2, 16, torch.float32, num_blocks=max(map(max, meta.block_ids)) + 1)
    query = query_of(meta, 4, 16, torch.float32)
    scoring = Scoring(0.25, window)
    found = RaggedAttention(CPU, num_programs=num_programs)(query, keys, values, meta, scoring)
    assert_right(found, query, keys, values, meta, scoring)


def test_keys_and_values_in_fp8_are_scaled_by_head() -> None:
    meta = build_meta(chunks_of(random.Random(4)), BLOCK)
    keys, values = caches_of(meta, 2, 16, torch.float32)
    query = query_of(meta, 6, 16, torch.float32)
    scales = KVScales.of(torch.tensor([[0.5, 1.5], [2.0, 0.25]]))
    small = [
        (cache / scale[:, None]).to(torch.float8_e4m3fn)
        for cache, scale in zip((keys, values), scales.factors, strict=True)
    ]
    found = RaggedAttention(CPU)(query, *small, meta, Scoring(0.2), scales)
    read = [cache.float() * scale[:, None] for cache, scale in zip(small, scales.factors, strict=True)]
    assert_right(found, query, *read, meta, Scoring(0.2))


def test_every_number_in_fp8_is_read_as_it_is() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[~numbers.isnan()][:240].view(15, 1, 16)
    values = torch.zeros(16, 1, 1, 16, dtype=torch.uint8).view(torch.float8_e4m3fn)
    values[:15, 0] = numbers.to(torch.float8_e4m3fn)
    alone = build_meta([Chunk(token_ids=[0], start=0, block_ids=[i], num_sequence_tokens=1) for i in range(15)], 1)
    query, keys = torch.zeros(15, 1, 16), torch.zeros_like(values)
    found = RaggedAttention(CPU)(query, keys, values, alone, Scoring(1.0), KVScales.of(torch.ones(2, 1)))
    assert found.equal(numbers)


def test_numbers_that_stay_where_they_are_may_change() -> None:
    """As a graph's do: what was planned for one batch is planned anew for the next by the same launches."""
    attention = RaggedAttention(CPU, num_programs=5)
    meta = _meta([(150, 1), (2, 1), (77, 1)], block_size=16)
    step = put(meta, CPU)
    for contexts in ((150, 2, 77), (4, 130, 0)):
        now = _meta([(context, 1) for context in contexts], block_size=16)
        step.num_context.copy_(now.num_context)
        starts, tables = (torch.from_numpy(part) for part in side_by_side(now))
        step.table_start.copy_(starts)
        step.tables.zero_()
        step.tables[: len(tables)].copy_(tables)
        keys, values = caches_of(now, 2, 16, torch.float32)
        query = query_of(now, 4, 16, torch.float32)
        attention.begin(meta, step)
        assert_right(attention(query, keys, values, meta, Scoring(0.3)), query, keys, values, now, Scoring(0.3))


def test_what_no_token_of_the_step_owns_is_not_read() -> None:
    meta = build_meta(chunks_of(random.Random(3)), BLOCK)
    whole = caches_of(meta, 2, 16, torch.float32)
    owned = torch.zeros(NUM_BLOCKS * BLOCK, dtype=torch.bool)
    for context, begin, end, blocks in zip(
        meta.num_contexts, meta.query_starts[:-1], meta.query_starts[1:], meta.block_ids, strict=True
    ):
        for place in range(context + end - begin):
            owned[blocks[place // BLOCK] * BLOCK + place % BLOCK] = True
    poisoned = whole.clone()
    poisoned.flatten(1, 2)[:, ~owned] = torch.nan
    query = query_of(meta, 6, 16, torch.float32)
    found = RaggedAttention(CPU)(query, *poisoned, meta, Scoring(0.2))
    assert_right(found, query, *whole, meta, Scoring(0.2))


def test_a_query_that_is_a_view_is_read_where_it_lies() -> None:
    meta = _meta([(0, 5), (17, 2)], block_size=16)
    keys, values = caches_of(meta, 2, 16, torch.float32)
    whole = query_of(meta, 8, 16, torch.float32)
    query = whole[:, :4]
    assert_right(RaggedAttention(CPU)(query, keys, values, meta, Scoring(0.3)), query, keys, values, meta, Scoring(0.3))


def test_more_heads_to_a_key_than_a_tile_has_rows_get_a_larger_one() -> None:
    assert tiling(1, 48, 128, torch.bfloat16).rows == 64


def _meta(spans: list[tuple[int, int]], block_size: int) -> PagedMeta:
    """Chunks of (context, new tokens) over shuffled blocks."""
    counts = [-(-(context + count) // block_size) for context, count in spans]
    free = list(range(sum(counts)))
    random.Random(7).shuffle(free)
    chunks = []
    for (context, count), num_blocks in zip(spans, counts, strict=True):
        blocks = [free.pop() for _ in range(num_blocks)]
        end = context + count
        chunks.append(Chunk(token_ids=[0] * count, start=context, block_ids=blocks, num_sequence_tokens=end))
    return build_meta(chunks, block_size)
