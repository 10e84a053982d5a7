"""Which heads of a model each rank of a gang holds, and which blocks it hands over. No torch.

The degree divides the heads, so that a rank holds an interval of them; or the heads divide the degree, so that each
head lies, replicated, on neighbouring ranks. Ranks that read prompts together hold the same: they take turns.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

HeadsOf = Callable[[int], range]  # which heads of a layer that has so many; empty: none


class Place(NamedTuple):
    """One rank's place in its gang."""

    rank: int = 0
    degree: int = 1  # ranks that divide the heads between them

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.degree}"

    def heads(self, num_heads: int) -> range:
        """Of a layer with `num_heads`; never empty. `divides` says for which degrees there is an answer."""
        assert divides(self.degree, num_heads), f"{num_heads} heads for {self.degree} ranks"
        first = self.rank * num_heads // self.degree
        return range(first, max(first + 1, (self.rank + 1) * num_heads // self.degree))

    def num_replicas(self, num_heads: int) -> int:
        """How many ranks hold each head."""
        return max(1, self.degree // num_heads)


class Turn(NamedTuple):
    """Of a sequence's blocks every `num_turns`-th, from block `number` on; of its states the last turn has all. Tokens
    of these blocks are counted as if no others were between them.
    """

    number: int = 0
    num_turns: int = 1

    def __str__(self) -> str:
        return f"turn {self.number} of {self.num_turns}"

    @property
    def has_states(self) -> bool:
        return self.number == self.num_turns - 1

    def blocks(self, block_ids: Sequence[int]) -> Sequence[int]:
        return block_ids if self.num_turns == 1 else block_ids[self.number :: self.num_turns]

    def num_tokens(self, num_tokens: int, block_size: int) -> int:
        """How many of a sequence's first `num_tokens` are in these blocks."""
        if self.num_turns == 1:
            return num_tokens
        num_blocks, rest = divmod(num_tokens, block_size)
        rounds, beyond = divmod(num_blocks, self.num_turns)
        return (rounds + (self.number < beyond)) * block_size + rest * (self.number == beyond)


class Degrees(NamedTuple):
    """How the ranks of a gang divide their work.

    Attributes:
        tensor: Ranks that divide the heads between them.
        sequence: Such groups of ranks, of which each reads a piece of every long prompt.
    """

    tensor: int = 1
    sequence: int = 1

    @property
    def size(self) -> int:
        return self.tensor * self.sequence

    def place_of(self, rank: int) -> Place:
        """Those that divide the heads are neighbours."""
        return Place(rank % self.tensor, self.tensor)

    def turn_of(self, rank: int) -> Turn:
        return Turn(rank // self.tensor, self.sequence)


def divides(degree: int, num_heads: int) -> bool:
    """Whether a gang of `degree` ranks can share out `num_heads` heads."""
    return num_heads % degree == 0 or degree % num_heads == 0


def undivided(degree: int, head_counts: Iterable[int]) -> int:
    """The first of `head_counts` that a gang of `degree` ranks cannot share out; 0: it can all."""
    return next((count for count in head_counts if degree < 1 or not divides(degree, count)), 0)


PLAIN = Place()  # of a worker that is no gang
EVERY_BLOCK = Turn()
ALONE = Degrees()
