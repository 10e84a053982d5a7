"""Decode steps in a row, of the same sequences.

Invariant: what `advance` leaves in sequences and blocks is what as many steps one by one, each planned by the
scheduler, would have left: blocks are taken, and made known to the prefix cache, in the same order.
"""

from collections.abc import Sequence as List

from cluster.contracts.latency import LatencyModel
from workers.engine.block_manager import BlockManager
from workers.engine.sequence import Sequence


class DecodeRun:
    """Up to `num_steps` decode steps in a row, until a sequence ends or a block is missing; the first is planned.

    Args:
        seqs: All that run, oldest first.
    """

    def __init__(self, *, seqs: List[Sequence], latency: LatencyModel, blocks: BlockManager, start_s: float) -> None:
        self.seqs = seqs
        self.start_s = start_s
        self.num_done = 0  # steps that sequences and blocks show
        self._latency = latency
        self._blocks = blocks
        self._first_computed = [seq.num_computed_tokens for seq in seqs]
        self._num_context = sum(self._first_computed) + len(seqs)
        self._num_grown = 1  # steps whose blocks are taken
        self.delay_s = 0.0  # of the last step
        self.target = 0  # steps after which the worker looks again
        self.num_steps = 0
        num_left = min(seq.params.max_tokens - len(seq.output_token_ids) for seq in seqs)
        self.num_steps = self._fitting(num_left)

    def end_s(self, num_steps: int) -> float:
        end_s = self.start_s + self._latency.decode_steps_s(len(self.seqs), self._num_context, num_steps)
        return end_s + self.delay_s if num_steps == self.num_steps else end_s

    def num_ended(self, now_s: float, includes_now: bool) -> int:
        """Steps, less than all, that have ended by now; `includes_now`: one that ends at this instant has."""
        low, high = self.num_done, self.num_steps  # `low` have ended, `high` have not
        guess = low + 1
        while low + 1 < high:
            end_s = self.end_s(guess)
            if end_s < now_s or (includes_now and end_s == now_s):
                low = guess
            else:
                high = guess
            # Steps take nearly the same time: the next guess is where a straight line says.
            pace_s = (end_s - self.start_s) / guess
            guess = min(max(int((now_s - self.start_s) / pace_s), low + 1), high - 1)
        return low

    def advance(self, num_done: int, *, num_planned: int) -> None:
        """Brings sequences and blocks to the end of step `num_done`, with the blocks of the first `num_planned`."""
        num_grown = num_planned
        if self._blocks.prefix_cache:
            self._advance_in_order(num_done, num_grown)
        elif num_grown > self._num_grown:
            for seq, first in zip(self.seqs, self._first_computed, strict=True):
                self._blocks.grow(seq, first + num_grown)
        num_new = num_done - self.num_done
        if num_new:
            zeros = [0] * num_new
            for seq, first in zip(self.seqs, self._first_computed, strict=True):
                seq.num_computed_tokens = first + num_done
                seq.output_token_ids += zeros
        self.num_done, self._num_grown = num_done, max(num_grown, self._num_grown)

    def planned(self) -> None:
        """The scheduler itself has taken the blocks of the next step."""
        self._num_grown = self.num_done + 1

    def _advance_in_order(self, num_done: int, num_grown: int) -> None:
        """Takes blocks for the steps up to `num_grown`, commits those that steps up to `num_done` filled."""
        size, seqs, firsts = self._blocks.block_size, self.seqs, self._first_computed
        due: list[tuple[int, int]] = []  # (twice the step, and one more for a commit; index of the sequence)
        for index, first in enumerate(firsts):
            # Step s computes token first + s - 1: block by block it needs one when that is a multiple of the size ...
            step = self._num_grown + 1 + (-first - self._num_grown) % size
            due += [(2 * s, index) for s in range(step, num_grown + 1, size)]
            # ... and fills one when it is the last of a block.
            step = self.num_done + 1 + (-first - self.num_done - 1) % size
            due += [(2 * s + 1, index) for s in range(step, num_done + 1, size)]
        due.sort()
        for number, index in due:
            seq, step = seqs[index], number // 2
            if number % 2:
                seq.num_computed_tokens = firsts[index] + step
                self._blocks.commit(seq)
            else:
                self._blocks.grow(seq, firsts[index] + step)

    def _fitting(self, num_steps: int) -> int:
        """The most steps, up to `num_steps`, for which there are blocks without preempting anybody."""
        size, num_free = self._blocks.block_size, self._blocks.num_free_blocks
        if len(self.seqs) * (num_steps // size + 1) <= num_free:
            return num_steps
        held = [len(seq.block_ids) * size for seq in self.seqs]

        def num_missing(steps: int) -> int:
            ends = zip(self._first_computed, held, strict=True)
            return sum(max(-(-(first + steps - room) // size), 0) for first, room in ends)

        low, high = 1, num_steps + 1  # `low` steps fit, `high` do not
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if num_missing(middle) <= num_free else (low, middle)
        return low
