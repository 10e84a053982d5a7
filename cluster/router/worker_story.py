"""A worker's account of an attempt, on the ingress's clock.

A worker tells durations since it received the attempt, and how old that is. When it received it lies between when the
ingress sent it and that age before the ingress heard: the middle is taken, so that the error is half of what the way
there and back took, and nothing begins before it was sent or ends after it was heard of.
"""

from typing import NamedTuple

from baton.v1.worker_pb2 import PromptChunk, WorkerTrace


class ChunkTime(NamedTuple):
    """`num_context_tokens`: before it, cached ones counted. `num_steps`: that are told as this one."""

    start_s: float
    end_s: float
    num_tokens: int
    num_context_tokens: int
    num_steps: int = 1


class WorkerStory(NamedTuple):
    """Attributes:
    heard_s: When the ingress heard of it.
    offered_s: When it offered the KV to another; None: it did not.
    granted_s, arrived_s: When it had blocks for another's KV, and when that was whole; None: none came.
    num_bytes: That came.
    num_preemptions: Of the attempt there so far.
    """

    worker_id: str
    received_s: float
    scheduled_s: float
    heard_s: float
    chunks: tuple[ChunkTime, ...] = ()
    offered_s: float | None = None
    granted_s: float | None = None
    arrived_s: float | None = None
    num_bytes: int = 0
    num_preemptions: int = 0


def told(trace: WorkerTrace, worker_id: str, sent_s: float, now_s: float) -> WorkerStory:
    """
    Args:
        sent_s: When the ingress sent the attempt.
        now_s: When it heard this.
    """
    way_s = now_s - sent_s - trace.age_s  # there and back, and any time between two workers
    is_handed_over = trace.HasField("arrived_s")
    received_s = now_s - trace.age_s if is_handed_over else now_s - trace.age_s - max(way_s, 0.0) / 2

    def at_s(since_s: float) -> float:
        return min(max(received_s + since_s, sent_s), now_s)

    def chunk_at(chunk: PromptChunk) -> ChunkTime:
        return ChunkTime(
            at_s(chunk.start_s),
            at_s(chunk.end_s),
            chunk.num_tokens,
            chunk.num_context_tokens,
            max(chunk.num_steps, 1),
        )

    return WorkerStory(
        worker_id=worker_id,
        received_s=at_s(0.0),
        scheduled_s=at_s(trace.scheduled_s),
        heard_s=now_s,
        chunks=tuple(map(chunk_at, trace.chunks)),
        offered_s=at_s(trace.offered_s) if trace.HasField("offered_s") else None,
        granted_s=at_s(trace.granted_s) if trace.HasField("granted_s") else None,
        arrived_s=at_s(trace.arrived_s) if is_handed_over else None,
        num_bytes=trace.num_bytes,
        num_preemptions=trace.num_preemptions,
    )
