"""A step as the followers are told it is the step that the leader computes."""

from hypothesis import given
from hypothesis import strategies as st

from workers.model.contract import Chunk, ChunkKind, Row
from workers.parallel.steps import Compute, Copied, Copy, Settle, decode, encode

BLOCK = 4
number = st.integers(0, 2**31 - 1)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    tokens = tuple(draw(st.lists(number, min_size=1, max_size=9)))
    start = draw(st.integers(0, 40))
    num_blocks = -(-(start + len(tokens)) // BLOCK)
    return Chunk(
        token_ids=tokens,
        start=start,
        block_ids=tuple(draw(st.lists(number, min_size=num_blocks, max_size=num_blocks))),
        num_sequence_tokens=start + len(tokens) + draw(st.integers(0, 9)),
        kind=draw(st.sampled_from(ChunkKind)),
        state_id=draw(st.none() | st.integers(0, 2**30)),
        num_scored=draw(st.integers(0, len(tokens))),
        parents=tuple(range(-1, len(tokens) - 2)) if draw(st.booleans()) else (),
        follows=draw(st.none() | st.integers(0, 2**30)),
    )


@given(
    st.lists(chunks(), min_size=1, max_size=5),
    st.lists(st.tuples(number, st.integers(0, 8)), max_size=4),
    st.binary(max_size=9),
    st.booleans(),
)
def test_what_is_decoded_is_what_was_encoded(
    batch: list[Chunk], rows: list[tuple[int, int]], note: bytes, is_ahead: bool
) -> None:
    step = Compute(chunks=batch, rows=[Row(*row) for row in rows], note=note, is_ahead=is_ahead)
    assert decode(encode(step, BLOCK)) == step


@given(st.lists(st.tuples(number, number), max_size=9), st.sampled_from(Copied))
def test_copies_too(pairs: list[tuple[int, int]], what: Copied) -> None:
    step = Copy(pairs=pairs, what=what)
    assert decode(encode(step, BLOCK)) == step


@given(st.dictionaries(number, st.integers(1, 99), max_size=9))
def test_what_came_of_drafts_too(num_tokens: dict[int, int]) -> None:
    step = Settle(num_tokens=num_tokens)
    assert decode(encode(step, BLOCK)) == step


def test_blocks_that_no_token_of_the_chunk_reaches_stay_behind() -> None:
    chunk = Chunk(token_ids=(1, 2), start=3, block_ids=(7, 8, 9, 10), num_sequence_tokens=20)
    found = decode(encode(Compute(chunks=[chunk], rows=[]), BLOCK))
    assert isinstance(found, Compute)
    assert list(found.chunks[0].block_ids) == [7, 8]
