"""One choice of a request: its phase, its live attempt, and its tokens in order.

Invariant: `tokens` is what was delivered, each token once; every change of phase is in `MOVES`. When to start anew
is `cluster.router.lifecycle`'s to say.
"""

import enum
from dataclasses import dataclass, field

from baton.v1.inference_pb2 import FinishReason
from baton.v1.worker_pb2 import TokenOutput
from cluster.router.workers import WorkerKey


class Phase(enum.Enum):
    QUEUED = "queued"  # no attempt yet
    DISPATCHED = "dispatched"  # sent to workers, none of the attempt's tokens delivered
    RUNNING = "running"
    RETRYING = "retrying"  # an attempt was lost; waits for the next
    FINISHED = "finished"


MOVES = {
    Phase.QUEUED: {Phase.DISPATCHED, Phase.FINISHED},
    Phase.DISPATCHED: {Phase.RUNNING, Phase.RETRYING, Phase.FINISHED},
    Phase.RUNNING: {Phase.RETRYING, Phase.FINISHED},
    Phase.RETRYING: {Phase.DISPATCHED, Phase.FINISHED},
    Phase.FINISHED: set[Phase](),
}
LIVE = (Phase.DISPATCHED, Phase.RUNNING)


@dataclass(slots=True, kw_only=True, eq=False)
class Choice:
    """Mutable; owned by one Lifecycle."""

    number: int
    phase: Phase = Phase.QUEUED
    attempt: int = 0
    num_inherited: int = 0  # tokens delivered before this attempt
    tokens: list[int] = field(default_factory=list)  # delivered
    early: list[TokenOutput] = field(default_factory=list)  # of this attempt, after a gap
    prefill: WorkerKey | None = None
    decode: WorkerKey | None = None
    draft: WorkerKey | None = None  # who drafts for the attempt; it does not depend on that one
    num_losses: int = 0
    num_fruitless: int = 0  # attempts in a row that ended without a new token
    not_before_s: float = 0.0
    finish_reason: FinishReason = FinishReason.FINISH_REASON_UNSPECIFIED

    def move(self, phase: Phase) -> None:
        assert phase in MOVES[self.phase], f"choice {self.number}: {self.phase.name} -> {phase.name}"
        self.phase = phase

    def finish(self, reason: FinishReason) -> None:
        self.move(Phase.FINISHED)
        self.finish_reason = reason
        self.early.clear()

    def workers(self) -> set[WorkerKey]:
        """Those the live attempt depends on.

        Prefill counts until a token that only decode can have made is delivered: before, the KV may be on its way.
        """
        if self.phase not in LIVE:
            return set()
        keys = (self.decode,) if self._is_handed_over else (self.decode, self.prefill)
        return {key for key in keys if key is not None}

    def has_left(self, worker: WorkerKey) -> bool:
        """Whether it was handed over by `worker`, whose troubles are none of its any more: an ack that was lost."""
        return self._is_handed_over and worker == self.prefill

    @property
    def _is_handed_over(self) -> bool:
        return len(self.tokens) >= self.num_inherited + 2

    def accept(self, output: TokenOutput) -> list[TokenOutput]:
        """What the live attempt's `output` makes deliverable, in order; after a gap it waits."""
        if output.index > len(self.tokens):
            self.early.append(output)
            return []
        delivered = self._deliver(output)
        if not self.early:
            return delivered
        early, self.early = sorted(self.early, key=lambda one: one.index), []
        for one in early:
            if self.phase is Phase.FINISHED:
                break
            if one.index > len(self.tokens):
                self.early.append(one)
            else:
                delivered += self._deliver(one)
        return delivered

    def _deliver(self, output: TokenOutput) -> list[TokenOutput]:
        """Cuts off what was delivered before and books the rest."""
        num_repeated = len(self.tokens) - output.index
        if num_repeated:
            output.index = len(self.tokens)
            del output.token_ids[:num_repeated]
            del output.logprobs[:num_repeated]
        if not output.token_ids and not output.finish_reason and not output.HasField("prompt_logprobs"):
            return []
        if self.tokens and output.num_cached_tokens:
            output.num_cached_tokens = 0  # counted once per choice, not once per attempt
        self.tokens.extend(output.token_ids)
        if self.phase is Phase.DISPATCHED:
            self.move(Phase.RUNNING)
        if output.finish_reason:
            self.finish(output.finish_reason)
        return [output]
