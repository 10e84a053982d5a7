"""Which decodes of a simulated pipeline make a step together.

A decode stays with the batch that it joined: its next token needs the last one, and so goes with those that came out
of the last stage beside it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from cluster.contracts.simulation import Pipelining
from workers.engine.sequence import Sequence as Seq

Key = tuple[str, int]


class Batches:
    """Args:
    num_batches: At most; as many as there are stages.
    seed: Of the lots that are drawn.
    """

    def __init__(self, num_batches: int, how: Pipelining, seed: int) -> None:
        self._num_batches = num_batches
        self._how = how
        self._lots = Random(seed)
        self._batch_of: dict[Key, int] = {}
        self._num_open = 0
        self._changed_s = 0.0  # when batches opened or ended
        self._last = num_batches - 1  # that a step was of

    def next_up(self, ready: Sequence[Seq], flying: Iterable[Seq], now_s: float) -> list[Seq]:
        """Those of `ready`, which are not in a step, that make the next step: the batch whose turn it is.

        Args:
            flying: Decodes that steps on their way hold; their batches' turn is over until they return.
        """
        out = {self._batch_of[seq.key] for seq in flying if seq.key in self._batch_of}
        self._forget_all_but([*ready, *flying], now_s)
        for seq in ready:
            if seq.key not in self._batch_of:
                self._batch_of[seq.key] = self._choose(now_s)
        here = {self._batch_of[seq.key] for seq in ready} - out
        if not here:
            return []
        batch = self._last = min(here, key=lambda number: (number - self._last - 1) % self._num_batches)
        return [seq for seq in ready if self._batch_of[seq.key] == batch]

    def _forget_all_but(self, seqs: Iterable[Seq], now_s: float) -> None:
        self._batch_of = {seq.key: self._batch_of[seq.key] for seq in seqs if seq.key in self._batch_of}
        self._note_open(now_s)

    def _choose(self, now_s: float) -> int:
        """For one more sequence."""
        sizes = Counter(self._batch_of.values())
        if self._how.join == "smallest":
            return min(range(self._num_batches), key=lambda batch: sizes[batch])
        opened = sorted(sizes)
        if not opened or (len(opened) < self._num_batches and now_s - self._changed_s >= self._how.open_after_s):
            batch = next(number for number in range(self._num_batches) if not sizes[number])
            self._num_open, self._changed_s = len(opened) + 1, now_s
            return batch
        return self._lots.choice(opened)

    def _note_open(self, now_s: float) -> None:
        num_open = len(set(self._batch_of.values()))
        if num_open != self._num_open:
            self._num_open, self._changed_s = num_open, now_s
