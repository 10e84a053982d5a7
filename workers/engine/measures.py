"""How long an engine's steps and its requests' phases take, as distributions. Of the engine's thread.

A step costs 2 us here; the message that tells of all of it is made once a second at most, and only after news.
"""

from collections.abc import Iterable

from baton.v1.worker_pb2 import Measures
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import Sequence
from workers.kv_transfer.link import Inbox, Outbox
from workers.kv_transfer.measures import messages
from workers.model.contract import ChunkKind
from workers.telemetry.bounds import BATCH_SEQUENCES, BATCH_TOKENS, PREFILL_S, QUEUE_S, STEP_S
from workers.telemetry.histogram import Histogram

TELL_S = 1.0  # between two messages


class EngineMeasures:
    """Times are seconds on the engine's clock."""

    def __init__(self) -> None:
        self.prefill_step_s = Histogram(STEP_S)
        self.decode_step_s = Histogram(STEP_S)
        self.mixed_step_s = Histogram(STEP_S)
        self.draft_step_s = Histogram(STEP_S)
        self.batch_sequences = Histogram(BATCH_SEQUENCES)
        self.batch_tokens = Histogram(BATCH_TOKENS)
        self.queue_s = Histogram(QUEUE_S)
        self.prefill_s = Histogram(PREFILL_S)
        self._is_new = False
        self._told: Measures | None = None
        self._told_s = 0.0

    def step(self, chunks: list[ScheduledChunk], took_s: float) -> None:
        """Of a step, decodes first."""
        num_tokens = 0
        for chunk in chunks:
            num_tokens += chunk.num_tokens + len(chunk.draft.token_ids)
        if chunks[-1].kind is ChunkKind.DECODE:
            self.decode_step_s.observe(took_s)
        elif chunks[0].kind is ChunkKind.PREFILL:
            self.prefill_step_s.observe(took_s)
        else:
            self.mixed_step_s.observe(took_s)
        self.batch_sequences.observe(len(chunks))
        self.batch_tokens.observe(num_tokens)
        self._is_new = True

    def draft_step(self, num_sequences: int, num_tokens: int, took_s: float) -> None:
        """Of a draft worker."""
        self.draft_step_s.observe(took_s)
        self.batch_sequences.observe(num_sequences)
        self.batch_tokens.observe(num_tokens)
        self._is_new = True

    def admitted(self, seqs: Iterable[Sequence], now_s: float) -> None:
        """To the running ones; again, after a preemption, does not count."""
        for seq in seqs:
            if not seq.admitted_s:
                seq.admitted_s = now_s
                self.queue_s.observe(now_s - seq.arrived_s)

    def computed(self, chunks: Iterable[ScheduledChunk], now_s: float) -> None:
        """Whose prompt is read now, for the first time."""
        for chunk in chunks:
            seq = chunk.seq
            if chunk.kind is ChunkKind.PREFILL and not seq.num_uncomputed_tokens and not seq.output_token_ids:
                self.prefill_s.observe(now_s - seq.admitted_s)

    def message(self, now_s: float, outbox: Outbox | None = None, inbox: Inbox | None = None) -> Measures | None:
        """Not to be changed; the same object until there is a newer one. None: nothing was measured yet."""
        if self._is_new and now_s - self._told_s >= TELL_S:
            self._is_new, self._told_s = False, now_s
            self._told = Measures(
                prefill_step_s=self.prefill_step_s.message(),
                decode_step_s=self.decode_step_s.message(),
                mixed_step_s=self.mixed_step_s.message(),
                draft_step_s=self.draft_step_s.message(),
                batch_sequences=self.batch_sequences.message(),
                batch_tokens=self.batch_tokens.message(),
                queue_s=self.queue_s.message(),
                prefill_s=self.prefill_s.message(),
                links=messages([*(outbox.measures if outbox else ()), *(inbox.measures if inbox else ())]),
            )
        return self._told
