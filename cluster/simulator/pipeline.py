"""How a simulated worker of several stages fills them: which decodes make a batch, and when a step passes which stage.

A decode stays with the batch that it joined: its next token needs the last one, and so goes with those that came out
of the last stage beside it. A step of one batch follows a step of another through the stages, each of which takes one
step after the other; then the host works on what came out, one step after the other too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from cluster.simulator.contract import Pipelining
from cluster.simulator.flight import PromptFlight
from workers.engine.scheduler import is_decode
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


class Stages:
    """When the stages are free."""

    def __init__(self, num_stages: int, how: Pipelining) -> None:
        self._how = how
        self._free_s = [0.0] * num_stages

    @property
    def first_free_s(self) -> float:
        return self._free_s[0]

    @property
    def all_free_s(self) -> float:
        return self._free_s[-1]

    def pass_through(self, start_s: float, step_s: float, num_sequences: int, before: PromptFlight | None) -> float:
        """When a step is done that comes to the first stage at `start_s` and takes `step_s` alone.

        Args:
            before: The step that entered last, if it is still on its way.
        """
        host_s = min(self._how.host_step_s + self._how.host_sequence_s * num_sequences, step_s)
        stage_s = (step_s - host_s) / len(self._free_s)
        at_s = start_s
        for stage, free_s in enumerate(self._free_s):
            at_s = self._free_s[stage] = max(at_s, free_s) + stage_s
        return max(at_s, before.end_s if before is not None else 0.0) + host_s

    def stall(self, duration_s: float, now_s: float) -> None:
        self._free_s = [max(free_s, now_s) + duration_s for free_s in self._free_s]


def decodes_of(steps: Iterable[PromptFlight]) -> list[Seq]:
    """That these steps hold."""
    return [chunk.seq for step in steps for chunk in step.chunks if is_decode(chunk.seq)]
