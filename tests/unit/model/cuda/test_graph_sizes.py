"""Steps are padded to few sizes, which hold them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.model.contract import Chunk, Row
from workers.model.cuda.graph_sizes import DECODES, MAX_ENTRIES, MAX_ROWS, MIXED, GraphSizes
from workers.model.cuda.inputs import nbytes_of


def sizes_of(**fields: object) -> GraphSizes:
    base: dict[str, object] = {"max_sequences": 64, "max_tokens": 512, "max_blocks": 100, "block_size": 16}
    return GraphSizes(**{**base, **fields})  # type: ignore[arg-type]


def _chunk(count: int, start: int = 0, parents: tuple[int, ...] = ()) -> Chunk:
    blocks = range(-(-(start + count) // 16))
    return Chunk(
        token_ids=[0] * count, start=start, block_ids=blocks, num_sequence_tokens=start + count, parents=parents
    )


@pytest.mark.parametrize(("number", "padded"), [(1, 1), (3, 4), (17, 24), (64, 64), (65, None)])
def test_decodes_are_padded_to_the_next_size(number: int, padded: int | None) -> None:
    size = sizes_of().of([_chunk(1)] * number, [])
    assert (size and size.num_tokens) == padded
    assert size is None or (size.num_chunks, size.num_rows, size.is_mixed) == (padded, padded, False)


@pytest.mark.parametrize(("count", "padded"), [(2, 16), (16, 16), (257, 320), (511, 512), (512, 512), (513, None)])
def test_other_steps_are_padded_in_tokens(count: int, padded: int | None) -> None:
    size = sizes_of().of([_chunk(count)], [Row(0, 0)])
    assert (size and size.num_tokens) == padded
    assert size is None or size.is_mixed


def test_the_width_of_tables_is_part_of_a_size_only_where_they_are_read_by_rows() -> None:
    short, long = [_chunk(1)] * 2, [_chunk(1, 500), _chunk(1)]
    assert sizes_of().of(short, []) == sizes_of().of(long, [])
    found = [sizes_of(has_width=True, has_mixed=False).of(chunks, []) for chunks in (short, long)]
    assert [size and size.width for size in found] == [16, 32]


def test_trees_have_sizes_of_their_own() -> None:
    size = sizes_of().of([_chunk(3, parents=(-1, -1))], [])
    assert size is not None
    assert size.has_trees
    assert size != sizes_of().of([_chunk(3)], [])


def test_too_many_rows_or_chunks_have_no_graph() -> None:
    assert sizes_of().of([_chunk(300)], [Row(0, MAX_ROWS - 1)]) is not None
    assert sizes_of().of([_chunk(300)], [Row(0, MAX_ROWS)]) is None
    few = sizes_of(max_sequences=2)
    assert few.of([_chunk(8), _chunk(7)], []) is not None, "two, and one of padding"
    assert few.of([_chunk(8), _chunk(7), _chunk(1)], []) is not None, "nothing is padded"
    assert few.of([_chunk(8), _chunk(6), _chunk(1)], []) is None


def test_usual_sizes_begin_with_the_largest_and_then_go_up() -> None:
    usual = list(sizes_of(max_sequences=6, max_tokens=50).usual())
    assert [(size.num_tokens, size.is_mixed) for size in usual] == [
        *[(64, True), (1, False), (2, False), (4, False), (8, False), (16, True), (32, True)]
    ]
    usual = list(sizes_of(max_sequences=2, has_width=True, has_mixed=False).usual())
    assert [(size.num_tokens, size.width) for size in usual] == [(2, 16), (1, 16), (1, 32), (2, 32)]
    short = sizes_of(max_sequences=2, max_blocks=3, has_width=True, has_mixed=False)
    assert {size.width for size in short.usual()} == {16}, "no sequence has more blocks"
    trees = [size.num_tokens for size in sizes_of(max_tokens=40, has_trees=True).usual() if size.has_trees]
    assert trees == [16, 32, 64]


@given(
    max_sequences=st.integers(1, 400),
    max_tokens=st.integers(1, 3000),
    max_blocks=st.integers(1, 1 << 14),
    has_width=st.booleans(),
    chunks=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3000)), min_size=1, max_size=12),
    is_decode=st.booleans(),
)
def test_a_size_holds_its_step_and_the_largest_every_size(
    max_sequences: int,
    max_tokens: int,
    max_blocks: int,
    has_width: bool,
    chunks: list[tuple[int, int]],
    is_decode: bool,
) -> None:
    sizes = sizes_of(
        max_sequences=max_sequences,
        max_tokens=max_tokens,
        max_blocks=max_blocks,
        has_width=has_width,
        has_mixed=not has_width,
    )
    given_chunks = [
        _chunk(1 if is_decode else count, min(start, 16 * max_blocks - 20)) for count, start in chunks if max_blocks > 1
    ] or [_chunk(1)]
    of_step = sizes.of(given_chunks, [Row(0, 0)])
    for size in filter(None, (of_step, *sizes.usual())):
        assert size.num_tokens in (MIXED if size.is_mixed else DECODES)
        assert size.num_rows <= sizes.max_rows
        assert nbytes_of(size, 3) <= nbytes_of(sizes.largest, 3)
        assert size.num_entries <= MAX_ENTRIES + size.num_tokens
    if of_step is None:
        return
    num_tokens = sum(len(chunk.token_ids) for chunk in given_chunks)
    num_padded = of_step.num_tokens - num_tokens
    num_chunks = len(given_chunks) + (bool(num_padded) if of_step.is_mixed else num_padded)
    padding = -(-num_padded // 16) if of_step.is_mixed else num_padded
    assert num_padded >= 0
    assert num_chunks <= of_step.num_chunks
    assert sum(len(chunk.block_ids) for chunk in given_chunks) + padding <= of_step.num_entries
