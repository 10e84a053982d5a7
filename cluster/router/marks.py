"""When the outputs of one choice came, how many tokens each had, and how many guesses were checked for it.

Invariant: the sums are exact; of a long answer neighbouring outputs are put together, so that there are never more than
`most` marks and all of the answer is covered.
"""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

MAX_MARKS = 2048  # of a request; 16 bytes each
_WIDTH = 4


class Mark(NamedTuple):
    """Attributes:
    at_s: Of its last output.
    num_accepted: Of its tokens, those that had been guessed.
    """

    at_s: float
    num_tokens: int
    num_drafted: int
    num_accepted: int


class Marks:
    """`most`: an even number of marks, at least 2."""

    __slots__ = ("_pending", "_rows", "_width", "first_s", "last_s", "outputs_per_mark")

    def __init__(self, most: int = MAX_MARKS) -> None:
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.outputs_per_mark = 1
        self._pending = 0  # outputs of the last mark, while that may take more
        self._width = most * _WIDTH
        self._rows = array("f")  # times since `first_s`: a float of 4 bytes is good to 0.1 ms in half an hour

    def add(self, now_s: float, num_tokens: int, num_drafted: int) -> None:
        """One output. Of a step that checked guesses all tokens but the last were guessed."""
        first_s = self.first_s
        if first_s is None:
            first_s = self.first_s = now_s
        self.last_s = now_s
        rows = self._rows
        if len(rows) < self._width and not self._pending:  # nearly always
            rows.extend((now_s - first_s, num_tokens, num_drafted, num_tokens - 1 if num_drafted else 0))
            if self.outputs_per_mark > 1:
                self._pending = 1
        else:
            self._add_to_long(now_s - first_s, num_tokens, num_drafted)

    def _add_to_long(self, at_s: float, num_tokens: int, num_drafted: int) -> None:
        rows, num_accepted = self._rows, num_tokens - 1 if num_drafted else 0
        if self._pending:
            rows[-4] = at_s
            rows[-3] += num_tokens
            rows[-2] += num_drafted
            rows[-1] += num_accepted
            self._pending = (self._pending + 1) % self.outputs_per_mark
        else:
            self._thin()
            rows.extend((at_s, num_tokens, num_drafted, num_accepted))
            self._pending = 1

    @property
    def num_outputs(self) -> int:
        return len(self) * self.outputs_per_mark - (self.outputs_per_mark - self._pending if self._pending else 0)

    @property
    def num_tokens(self) -> int:
        return self._sum(1)

    @property
    def num_drafted(self) -> int:
        return self._sum(2)

    @property
    def num_accepted(self) -> int:
        return self._sum(3)

    def _sum(self, column: int) -> int:
        return int(sum(self._rows[column::_WIDTH]))

    def __iter__(self) -> Iterator[Mark]:
        rows, start_s = self._rows, self.first_s or 0.0
        for at in range(0, len(rows), _WIDTH):
            yield Mark(start_s + rows[at], int(rows[at + 1]), int(rows[at + 2]), int(rows[at + 3]))

    def __len__(self) -> int:
        return len(self._rows) // _WIDTH

    def _thin(self) -> None:
        """Puts every two marks together."""
        rows = self._rows
        thin = array("f")
        for at in range(0, len(rows), 2 * _WIDTH):
            sums = [rows[at + of] + rows[at + _WIDTH + of] for of in range(1, _WIDTH)]
            thin.extend((rows[at + _WIDTH], *sums))
        rows[:] = thin
        self.outputs_per_mark *= 2
