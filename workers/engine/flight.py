"""Steps that were launched and whose tokens are not known yet: what is certain of them, for the next to be planned.

Invariant: at most one step is in flight while the next is planned; a sequence of it counts as many tokens more as the
step computes and writes, and what they are comes from the device. Nothing is told, hashed or handed over of a step
before it has landed. Blocks that a step in flight may write to are given to nobody (`BlockManager.free`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.engine.jobs import Job
from workers.engine.scheduler import ScheduledChunk
from workers.model.contract import Batch, Launched, Sampled


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """
    Attributes:
        number: Of the step.
        jobs: Of the chunks.
        owners: Of each row of the batch's samples: (index of the job, choice).
        began_s: On the engine's clock.
        is_last: Until it has landed nothing may be launched: what follows depends on what it gives.
    """

    number: int
    chunks: list[ScheduledChunk]
    jobs: list[Job]
    batch: Batch
    owners: list[tuple[int, int]]
    launched: Launched
    began_s: float
    is_last: bool = True

    def takes_off(self, max_model_len: int) -> None:
        """Its sequences count what it computes and writes."""
        for chunk in self.chunks:
            chunk.seq.num_launched_tokens += chunk.num_tokens
            chunk.seq.last_step = self.number
            chunk.seq.pending_row = None
        for row, (index, _) in enumerate(self.owners):
            job = self.jobs[index]
            seq = job.seq
            seq.pending_row = row
            seq.num_pending_tokens = seq.num_pending_tokens + 1
            num_outputs = len(seq.output_token_ids) + seq.num_pending_tokens
            is_over = num_outputs >= seq.params.max_tokens or seq.num_coming_tokens >= max_model_len
            seq.is_held = is_over or job.handover is not None

    def lands(self) -> None:
        """Nothing of it is in flight any more: its sequences are as before, for what it gave to be counted."""
        for chunk in self.chunks:
            seq = chunk.seq
            seq.num_launched_tokens -= chunk.num_tokens
            if seq.last_step == self.number:
                seq.last_step = seq.pending_row = None
                seq.is_held = False
        for index, _ in self.owners:
            self.jobs[index].seq.num_pending_tokens -= 1


@dataclass(frozen=True, slots=True)
class Done:
    """A step that a runner has run."""

    sampled: list[list[Sampled]]

    def result(self) -> list[list[Sampled]]:
        return self.sampled


def must_land(batch: Batch, chunks: Sequence[ScheduledChunk], state_spacing: int | None) -> bool:
    """Whether what follows a step depends on more than how many tokens it computes and writes. Before it takes off.

    So it is with drafts, with grammars, with choices that are forked off, with scores of prompts, and where a state is
    to be kept before it goes on.
    """
    if batch.prompts or batch.watch is not None or batch.masks is not None:
        return True
    for row in batch.samples:
        seq = chunks[row.chunk].seq
        if row.draft_token_ids or seq.siblings or seq.follower is not None:
            return True
    if state_spacing is None:
        return False
    return any((chunk.seq.num_scheduled_tokens + chunk.num_tokens) % state_spacing == 0 for chunk in chunks)
