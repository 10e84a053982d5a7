"""How a job came to its first output on this worker: when it was queued, read, handed over; told with that output.

Invariant: at most MAX_CHUNKS chunks, whatever the prompt; together they are all of its steps here. Times are the
engine's clock's; what is told are seconds since the job came.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from baton.v1.worker_pb2 import PromptChunk, WorkerTrace
from workers.engine.scheduler import ScheduledChunk
from workers.model.contract import ChunkKind

MAX_CHUNKS = 256  # even


class ChunkTime(NamedTuple):
    start_s: float
    end_s: float
    num_tokens: int
    num_context_tokens: int
    num_steps: int


@dataclass(slots=True)
class JobTrace:
    """Mutable; of one job until its first output, and again after it was preempted. `arrived_s`: None: no KV came."""

    num_preemptions: int = 0
    scheduled_s: float | None = None
    ended_s: float = 0.0  # of its last step
    granted_s: float | None = None
    arrived_s: float | None = None
    num_came_tokens: int = 0  # whose KV is there when it arrived, cached ones counted
    offered_s: float | None = None
    chunks: list[ChunkTime] = field(default_factory=list)

    def computed(self, chunk: ScheduledChunk, started_s: float, ended_s: float, *, is_offered: bool) -> None:
        """A step with `chunk` is over, whose tokens are not counted as computed yet."""
        if self.scheduled_s is None:
            self.scheduled_s = started_s
        if is_offered and self.offered_s is None:
            self.offered_s = started_s
        self.ended_s = ended_s
        if chunk.kind is ChunkKind.PREFILL:
            if len(self.chunks) >= MAX_CHUNKS:
                self._thin()
            self.chunks.append(ChunkTime(started_s, ended_s, chunk.num_tokens, chunk.seq.num_computed_tokens, 1))

    def message(self, came_s: float, num_bytes: int) -> WorkerTrace:
        """
        Args:
            came_s: When the job came to this worker.
            num_bytes: Of KV that came with it, if any.
        """

        def since(at_s: float) -> float:
            return max(at_s - came_s, 0.0)  # a step that takes a job in has begun before

        message = WorkerTrace(
            age_s=since(self.ended_s),
            scheduled_s=since(self.ended_s if self.scheduled_s is None else self.scheduled_s),
            num_bytes=num_bytes,
            num_preemptions=self.num_preemptions,
            chunks=[
                PromptChunk(
                    start_s=since(chunk.start_s),
                    end_s=since(chunk.end_s),
                    num_tokens=chunk.num_tokens,
                    num_context_tokens=chunk.num_context_tokens,
                    num_steps=chunk.num_steps,
                )
                for chunk in self.chunks
            ],
        )
        if self.offered_s is not None:
            message.offered_s = since(self.offered_s)
        if self.granted_s is not None:
            message.granted_s = since(self.granted_s)
        if self.arrived_s is not None:
            message.arrived_s = since(self.arrived_s)
        return message

    def _thin(self) -> None:
        """Tells every two chunks as one."""
        pairs = zip(self.chunks[::2], self.chunks[1::2], strict=True)
        self.chunks = [
            ChunkTime(
                first.start_s,
                second.end_s,
                first.num_tokens + second.num_tokens,
                first.num_context_tokens,
                first.num_steps + second.num_steps,
            )
            for first, second in pairs
        ]
