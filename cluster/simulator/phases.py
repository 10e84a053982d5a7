"""Which phase requests of a simulated worker pass through, for a timeline: queued, prefill, transfer, decode."""

from collections.abc import Iterable, Sequence

from cluster.simulator.events import EventQueue
from cluster.simulator.jobs import SimJob
from cluster.simulator.spans import Spans
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import ChunkKind


class Phases:
    """Each method: requests end a phase now.

    Args:
        spans: Where to note it, if anywhere.
    """

    def __init__(self, spans: Spans | None, queue: EventQueue) -> None:
        self._spans = spans
        self._queue = queue

    def admitted(self, seqs: Iterable[Seq]) -> None:
        for seq in seqs:
            self._passed(seq, "queued")

    def preempted(self, job: SimJob) -> None:
        self._passed(job.seq, "decode" if job.told_first else "prefill")

    def read(self, chunks: Sequence[ScheduledChunk]) -> None:
        """Chunks of a step that is done, and not booked yet: prompts that end with it."""
        for chunk in chunks:
            if chunk.kind is ChunkKind.PREFILL and chunk.seq.num_uncomputed_tokens == chunk.num_tokens:
                self._passed(chunk.seq, "prefill")

    def received(self, job: SimJob) -> None:
        self._passed(job.seq, "transfer")

    def written(self, job: SimJob) -> None:
        self._passed(job.seq, "decode")

    def _passed(self, seq: Seq, kind: str) -> None:
        if self._spans is not None:
            self._spans.passed(seq.request_id, kind, self._queue.now_s)
