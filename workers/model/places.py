"""Which heads of a model each rank of a gang holds. No torch.

The degree divides the heads, so that a rank holds an interval of them; or the heads divide the degree, so that each
head lies, replicated, on neighbouring ranks.
"""

from collections.abc import Callable, Iterable
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


def divides(degree: int, num_heads: int) -> bool:
    """Whether a gang of `degree` ranks can share out `num_heads` heads."""
    return num_heads % degree == 0 or degree % num_heads == 0


def undivided(degree: int, head_counts: Iterable[int]) -> int:
    """The first of `head_counts` that a gang of `degree` ranks cannot share out; 0: it can all."""
    return next((count for count in head_counts if degree < 1 or not divides(degree, count)), 0)


PLAIN = Place()  # of a worker that is no gang
