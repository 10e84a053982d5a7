"""Decides which tokens of which sequences one step computes: continuous batching with chunked prefill.

A step has a budget of tokens. All running decodes come first, then running prompts share what is left, then waiting
ones are admitted while blocks and places last (the order of Sarathi-Serve). A prompt's blocks are all taken when it is
admitted, so that prompts in progress never wait for each other; decodes grow block by block. Draft tokens come last:
they lengthen decodes by what budget and blocks the others leave, and the blocks are given back as soon as somebody
lacks one, so that they delay and preempt nobody.

Invariant: seniority. Both lists are in order of arrival, a sequence loses its blocks (preemption, to be recomputed
later) only to an older one, and nothing is admitted past an older one that waits. So the oldest that runs always gets
on, and everyone does in the end, if each fits into the pool alone (the engine refuses those that do not).
"""

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field

from workers.engine.block_manager import BlockManager
from workers.engine.draft import NO_DRAFT, Draft
from workers.engine.sequence import Sequence, Status
from workers.model.contract import ChunkKind

Drafts = Mapping[tuple[str, int], Draft]  # by a sequence's key


@dataclass(slots=True)
class ScheduledChunk:
    """The next `num_tokens` uncomputed tokens of `seq`, then draft tokens; its blocks hold all of them.

    Attributes:
        draft: Of a decode: what may follow the sequence's last token.
        right: When the step is done: places in the draft of the tokens that were written.
    """

    seq: Sequence
    num_tokens: int
    kind: ChunkKind
    draft: Draft = NO_DRAFT
    right: list[int] = field(default_factory=list)

    @property
    def draft_token_ids(self) -> List[int]:
        return self.draft.token_ids


@dataclass(slots=True)
class StepPlan:
    """Attributes:
    chunks: Decodes first. A sequence is here at most once.
    preempted: Lost their blocks and wait again; disjoint from `chunks`.
    admitted: Entered the running set with this step.
    is_short: Planned ahead, it would have had to preempt: of no use, to be made again when the steps before are done.
    """

    chunks: list[ScheduledChunk] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    is_short: bool = False


class Scheduler:
    """Not thread-safe: the engine's thread owns it. The caller advances cursors and frees the blocks of the finished.

    Args:
        max_batched_tokens: Budget of a step. Decodes are never left out for it, prompts get what they leave (so it
            should be above `max_sequences`), and draft tokens what prompts leave.
        max_sequences: Running sequences up to which prompts are admitted, choices still to be forked included.
        chunked_prefill: False: prompts run whole, in steps of their own, before decodes; one longer than the budget
            runs alone. For comparison: decodes pause meanwhile.
        state_spacing: Chunks end at its multiples, those of drafts too (but not prompts that run whole), so that the
            state of the tokens before can be kept; None: anywhere.
    """

    def __init__(
        self,
        *,
        blocks: BlockManager,
        max_batched_tokens: int,
        max_sequences: int,
        chunked_prefill: bool,
        state_spacing: int | None = None,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._is_ahead = False  # of the plan that is being made
        self._has_spare = False  # blocks that were taken for drafts may be with sequences that do not need them yet
        self.num_cut_draft_tokens = 0  # draft tokens for which a step had neither budget nor blocks
        self._blocks = blocks
        self._max_batched_tokens = max_batched_tokens
        self._max_sequences = max_sequences
        self._chunked_prefill = chunked_prefill
        self._state_spacing = state_spacing
        self._prompt_spacing = state_spacing if chunked_prefill else None

    def set_budget(self, max_batched_tokens: int) -> None:
        """Of the steps from now on. Which tokens are written does not depend on it."""
        self._max_batched_tokens = max_batched_tokens

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of prompts still to compute, waiting and running; of preempted sequences also their outputs."""
        waiting = sum(seq.num_uncomputed_tokens for seq in self.waiting)
        return waiting + sum(seq.num_uncomputed_tokens for seq in self.running if not is_decode(seq))

    def add(self, seq: Sequence) -> None:
        """Queues a sequence without blocks: new, or to be read again with the output it has."""
        seq.status = Status.WAITING
        index = len(self.waiting)
        while index and self.waiting[index - 1].arrived_s > seq.arrived_s:
            index -= 1
        self.waiting.insert(index, seq)

    def add_running(self, seq: Sequence) -> None:
        """Takes in a sequence that has its blocks and cursors: received, or forked."""
        seq.status = Status.RUNNING
        self.running.insert(bisect_right(self.running, seq.arrived_s, key=_arrival), seq)

    def remove(self, seq: Sequence) -> None:
        """Forgets a sequence wherever it is, if anywhere; its blocks stay the caller's to free."""
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)

    def can_receive(self, seq: Sequence, num_receiving: int) -> bool:
        """Whether a sequence from another worker may take blocks for its tokens and one more now.

        No older sequence may be waiting, and one block to grow must be left for each that runs.

        Args:
            num_receiving: Sequences that hold blocks for their transfer already.
        """
        num_busy = len(self.running) + num_receiving
        if num_busy and num_busy + 1 + len(seq.siblings) > self._max_sequences:
            return False
        if (self.waiting and self.waiting[0].arrived_s < seq.arrived_s) or not self._blocks.has_slot:
            return False
        _, num_blocks = self._blocks.admission_cost(seq, brings_state=True)
        if seq.num_tokens % self._blocks.block_size == 0:
            num_blocks += 1
        return self._are_free(num_blocks + (len(self.running) if num_busy else 0))

    def plan(self, now_s: float, drafts: Drafts | None = None, *, is_ahead: bool = False) -> StepPlan:
        """Chooses the step's chunks, takes the blocks they need and sets statuses; may be empty.

        Args:
            now_s: Waiting sequences whose deadline has passed are passed over; the engine ends them.
            drafts: For sequences that decode; at most as many as can be of use (`drafting.proposed`). Those of others
                are passed over.
            is_ahead: A step is still running, so that no blocks can be taken from anybody.
        """
        plan = StepPlan()
        self._is_ahead = is_ahead
        if self._chunked_prefill:
            left = self._continue(plan, self._max_batched_tokens)
            if not plan.preempted and not plan.is_short:
                self._admit(plan, now_s, left)
        else:
            self._admit(plan, now_s, self._max_batched_tokens)
            if not plan.chunks:
                self._continue(plan, sys.maxsize)
        if drafts:
            self._lengthen(plan, drafts)
        return plan

    def _continue(self, plan: StepPlan, budget: int) -> int:
        """Schedules what runs, oldest first: each decode, and prompts within `budget`; returns the budget left."""
        running = self.running
        are_decodes = [is_decode(seq) and not seq.is_held for seq in running]
        budget = max(budget - sum(are_decodes), 0)
        decodes: list[ScheduledChunk] = []
        prompts: list[ScheduledChunk] = []
        block_size = self._blocks.block_size
        index = -1
        while (index := index + 1) < len(running):  # preemption takes from the end
            seq = running[index]
            if seq.is_held:
                continue
            num_tokens = 1 if are_decodes[index] else self._num_next(seq, budget)
            if num_tokens <= 0:
                continue
            num_held = len(seq.block_ids) * block_size
            if seq.num_scheduled_tokens + num_tokens > num_held and not self._make_room(plan, index, num_tokens):
                continue
            if are_decodes[index]:
                decodes.append(ScheduledChunk(seq, 1, ChunkKind.DECODE))
            else:
                prompts.append(ScheduledChunk(seq, num_tokens, ChunkKind.PREFILL))
                budget -= num_tokens
        plan.chunks = decodes + prompts
        return budget

    def _make_room(self, plan: StepPlan, index: int, num_tokens: int) -> bool:
        """Blocks for `num_tokens` more of running sequence `index`, at the cost of younger ones.

        When there is no younger one left it gives way itself; alone it keeps its blocks and waits (the others are with
        transfers, which end).
        """
        seq = self.running[index]
        end = seq.num_scheduled_tokens + num_tokens
        num_missing = self._blocks.num_missing_blocks(seq, end)
        while not self._are_free(num_missing):
            if self._is_ahead:
                plan.is_short = True
                return False
            if len(self.running) == 1:
                return False
            victim = self.running[-1]
            self._preempt(plan, victim)
            if victim is seq:
                return False
        self._blocks.grow(seq, end)
        return True

    def _are_free(self, num_blocks: int) -> bool:
        """Whether so many blocks are, if need be once those are given back that drafts took and no text fills yet."""
        if num_blocks > self._blocks.num_free_blocks and self._has_spare:
            self._has_spare = False
            for seq in self.running:
                self._blocks.shrink(seq, seq.num_coming_tokens)
        return num_blocks <= self._blocks.num_free_blocks

    def _preempt(self, plan: StepPlan, victim: Sequence) -> None:
        """The youngest running sequence goes back to waiting, before all that came when it did or later."""
        assert self.running[-1] is victim, "only the youngest is preempted"
        self.running.pop()
        self._blocks.free(victim)
        victim.status = Status.WAITING
        index = 0
        while index < len(self.waiting) and self.waiting[index].arrived_s < victim.arrived_s:
            index += 1
        self.waiting.insert(index, victim)
        plan.preempted.append(victim)

    def _admit(self, plan: StepPlan, now_s: float, budget: int) -> None:
        """Moves waiting sequences to the running ones, first come first served, and schedules their first chunks."""
        overdue: list[Sequence] = []
        num_places = self._max_sequences - sum(map(_num_places, self.running)) if self.waiting else 0
        while self.waiting:
            seq = self.waiting[0]
            if seq.deadline_s <= now_s:
                overdue.append(self.waiting.popleft())
                continue
            if budget <= 0 or (self.running and _num_places(seq) > num_places):
                break
            num_cached, num_blocks = self._blocks.admission_cost(seq)
            num_uncomputed = seq.num_tokens - num_cached
            if not self._chunked_prefill and plan.chunks and num_uncomputed > budget:
                break
            # A block to grow for each that runs and for this one: else it would be preempted right away.
            reserve = len(self.running) + 1 if self.running else 0
            if not self._are_free(num_blocks + reserve) or not self._blocks.has_slot:
                break
            self._start(plan, self.waiting.popleft(), budget if self._chunked_prefill else num_uncomputed)
            num_places -= _num_places(seq)
            budget -= plan.chunks[-1].num_tokens
        self.waiting.extendleft(reversed(overdue))

    def _start(self, plan: StepPlan, seq: Sequence, budget: int) -> None:
        self._blocks.allocate(seq)
        self._blocks.grow(seq, seq.num_tokens)
        self.add_running(seq)
        plan.admitted.append(seq)
        kind = ChunkKind.DECODE if is_decode(seq) else ChunkKind.PREFILL
        plan.chunks.append(ScheduledChunk(seq, self._num_next(seq, budget), kind))

    def _num_next(self, seq: Sequence, budget: int) -> int:
        """Tokens of the next chunk of a prompt."""
        start = seq.num_scheduled_tokens
        num_tokens = min(seq.num_coming_tokens - start, budget)
        if self._prompt_spacing is None:
            return num_tokens
        return min(num_tokens, self._prompt_spacing - start % self._prompt_spacing)

    def _lengthen(self, plan: StepPlan, drafts: Drafts) -> None:
        """Adds draft tokens to decodes, oldest first, while budget and blocks last: of a draft its first, so that of a
        tree none is without the one before it.

        A block to grow is left for each that runs. What blocks the drafts take stays with their sequence whether they
        are accepted or not, for it grows into them next, until somebody else needs them.
        """
        blocks = self._blocks
        left = self._max_batched_tokens - sum(chunk.num_tokens for chunk in plan.chunks)
        for chunk in plan.chunks:
            draft = drafts.get(chunk.seq.key)
            if draft is None or chunk.kind is not ChunkKind.DECODE:
                continue
            seq, end = chunk.seq, chunk.seq.num_tokens
            num_blocks = len(seq.block_ids) + max(blocks.num_free_blocks - len(self.running), 0)
            num_wanted = min(len(draft.token_ids), self._num_to_state(end))
            num_drafts = max(min(num_wanted, left, num_blocks * blocks.block_size - end), 0)
            if blocks.num_missing_blocks(seq, end + num_drafts):
                blocks.grow(seq, end + num_drafts)
                self._has_spare = True
            chunk.draft = draft.first(num_drafts)
            left -= num_drafts
            self.num_cut_draft_tokens += num_wanted - num_drafts

    def _num_to_state(self, num_tokens: int) -> int:
        """Tokens after `num_tokens` up to those whose state is kept: 0 where theirs is."""
        return sys.maxsize if self._state_spacing is None else -num_tokens % self._state_spacing


def is_decode(seq: Sequence) -> bool:
    """The prompt is read and the last token alone has no KV: the next chunk is a decode, with drafts or without."""
    num_scheduled, num_prompt = seq.num_scheduled_tokens, len(seq.prompt_token_ids)
    return num_scheduled >= num_prompt and seq.num_coming_tokens - num_scheduled == 1


def _arrival(seq: Sequence) -> float:
    return seq.arrived_s


def _num_places(seq: Sequence) -> int:
    """Running sequences that this one becomes: its siblings are forked off when its prompt is read."""
    return 1 + len(seq.siblings)
