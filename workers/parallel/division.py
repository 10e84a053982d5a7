"""How a step is shared out among ranks that read prompts together: long prompt chunks in contiguous pieces, one for
each rank; everything else on all of them alike.

Every rank finds the same from the same step. Invariant: no piece is empty, so the last token of each chunk that is cut
is the last rank's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workers.model.contract import Chunk, ChunkKind, Row
from workers.parallel.pieces import TokenCosts, cut_prompt

EVEN = TokenCosts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """
    Attributes:
        chunks: The step's.
        pieces: Of each chunk that is cut, by its number: the positions of each rank's tokens.
    """

    chunks: Sequence[Chunk]
    pieces: Mapping[int, Sequence[range]]
    num_ranks: int

    def chunks_of(self, rank: int) -> list[Chunk]:
        """What `rank` computes; as many chunks as the step has, in its order."""
        return [
            _piece(chunk, self.pieces[number][rank]) if number in self.pieces else chunk
            for number, chunk in enumerate(self.chunks)
        ]

    def rank_of(self, row: Row) -> int:
        """Who has the logits of `row` for all."""
        return self.num_ranks - 1 if row.chunk in self.pieces else 0

    def places_of(self, rank: int) -> list[slice]:
        """Where the pieces lie among the tokens that `rank` computes, in the order of the chunks."""
        places, begin = [], 0
        for number, chunk in enumerate(self.chunks_of(rank)):
            end = begin + len(chunk.token_ids)
            if number in self.pieces:
                places.append(slice(begin, end))
            begin = end
        return places

    def slots_of(self, rank: int, block_size: int) -> list[int]:
        """Of the tokens of its pieces, in that order."""
        return [
            self.chunks[number].block_ids[p // block_size] * block_size + p % block_size
            for number in sorted(self.pieces)
            for p in self.pieces[number][rank]
        ]


def divide(
    chunks: Sequence[Chunk], rows: Sequence[Row], num_ranks: int, *, over_tokens: int, costs: TokenCosts = EVEN
) -> Division | None:
    """None: the step has no chunk to cut. Prompts whose tokens' logits are wanted are not: one rank has all of them.

    Args:
        over_tokens: Chunks of at least so many tokens are cut.
        costs: Of the chunks' tokens.
    """
    with_drafts = {row.chunk for row in rows if row.num_drafts}
    pieces = {}
    for number, chunk in enumerate(chunks):
        is_whole = chunk.kind is not ChunkKind.PREFILL or chunk.num_scored or number in with_drafts
        if len(chunk.token_ids) >= over_tokens and not is_whole:
            cut = cut_prompt(len(chunk.token_ids), num_ranks, num_cached=chunk.start, **costs._asdict())
            if all(cut):
                pieces[number] = cut
    return Division(chunks=chunks, pieces=pieces, num_ranks=num_ranks) if pieces else None


def _piece(chunk: Chunk, positions: range) -> Chunk:
    first = positions.start - chunk.start
    tokens = chunk.token_ids[first : first + len(positions)]
    return replace(chunk, token_ids=tokens, start=positions.start)
