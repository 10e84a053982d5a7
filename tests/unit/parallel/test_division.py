"""How a step is shared out among ranks that read prompts together."""

from hypothesis import given
from hypothesis import strategies as st

from workers.model.contract import Chunk, ChunkKind, Row
from workers.parallel.division import divide
from workers.parallel.pieces import TokenCosts

BLOCK = 4


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    tokens = draw(st.lists(st.integers(0, 99), min_size=1, max_size=30))
    start = draw(st.integers(0, 40))
    num_blocks = -(-(start + len(tokens)) // BLOCK)
    return Chunk(
        token_ids=tokens,
        start=start,
        block_ids=draw(st.permutations(range(50)))[:num_blocks],
        num_sequence_tokens=start + len(tokens) + draw(st.integers(0, 5)),
        kind=draw(st.sampled_from(ChunkKind)),
    )


@given(st.lists(chunks(), min_size=1, max_size=5), st.integers(2, 4), st.integers(2, 12), st.sampled_from([0.0, 0.1]))
def test_ranks_together_compute_cut_chunks_once_and_all_others_alike(
    batch: list[Chunk], num_ranks: int, over_tokens: int, growth: float
) -> None:
    rows = [Row(number, 0) for number in range(len(batch))]
    division = divide(batch, rows, num_ranks, over_tokens=over_tokens, costs=TokenCosts(growth=growth))
    long = [n for n, c in enumerate(batch) if c.kind is ChunkKind.PREFILL and len(c.token_ids) >= over_tokens]
    if division is None:
        assert all(len(batch[n].token_ids) < 3 * num_ranks for n in long), "only pieces of none are a reason"
        return
    assert set(division.pieces) <= set(long)
    shares = [division.chunks_of(rank) for rank in range(num_ranks)]
    for number, chunk in enumerate(batch):
        parts = [share[number] for share in shares]
        if number not in division.pieces:
            assert parts == [chunk] * num_ranks
            assert division.rank_of(Row(number, 0)) == 0
            continue
        assert [token for part in parts for token in part.token_ids] == list(chunk.token_ids)
        assert all(part.token_ids for part in parts)
        assert division.rank_of(Row(number, 0)) == num_ranks - 1
        starts = [chunk.start]
        for part in parts:
            assert part.start == starts[-1]
            starts.append(part.start + len(part.token_ids))
            assert part.num_sequence_tokens == chunk.num_sequence_tokens
    cut = [number for number in range(len(batch)) if number in division.pieces]
    for rank, share in enumerate(shares):
        tokens = [token for chunk in share for token in chunk.token_ids]
        placed = [token for place in division.places_of(rank) for token in tokens[place]]
        assert placed == [token for number in cut for token in share[number].token_ids]
        slots = [
            batch[number].block_ids[p // BLOCK] * BLOCK + p % BLOCK
            for number in cut
            for p in range(share[number].start, share[number].start + len(share[number].token_ids))
        ]
        assert division.slots_of(rank, BLOCK) == slots


def test_what_is_short_or_decoded_or_drafted_is_not_cut() -> None:
    short = Chunk(token_ids=[1] * 7, start=0, block_ids=[0, 1], num_sequence_tokens=7)
    long = Chunk(token_ids=[1] * 8, start=3, block_ids=[0, 1, 2], num_sequence_tokens=11)
    decode = Chunk(token_ids=[1] * 8, start=3, block_ids=[0, 1, 2], num_sequence_tokens=11, kind=ChunkKind.DECODE)
    assert divide([short, decode], [], 2, over_tokens=8) is None
    assert divide([long], [Row(0, 1)], 2, over_tokens=8) is None
    division = divide([short, long], [Row(1, 0)], 2, over_tokens=8)
    assert division is not None
    assert division.pieces == {1: [range(3, 7), range(7, 11)]}
