"""The prefill side of hand-overs: which jobs are being sent, and whose blocks wait for an ack.

Invariant: from `begin` on, the job's blocks stay referenced until the link says Acked or Ended; `ended` frees them.
A job that loses its blocks to preemption is aborted first: what is read then is never completed, so never used.
"""

from collections.abc import Sequence

from baton.errors import BatonError
from workers.engine.block_manager import BlockManager
from workers.engine.jobs import Job
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import Status
from workers.kv_transfer.link import Acked, Ended, Going, Outbox, Push, TransferKey


class Sending:
    def __init__(self, *, outbox: Outbox, blocks: BlockManager) -> None:
        self._outbox = outbox
        self._blocks = blocks
        self._jobs: dict[TransferKey, Job] = {}
        self._offered: set[TransferKey] = set()  # not ended for the link, of whatever became of the job

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> list[Job]:
        """Offered and not ended yet."""
        return list(self._jobs.values())

    def begin(self, job: Job) -> None:
        """Offers the job to the decode worker of its route."""
        assert job.submit is not None
        assert job.handover is not None
        job.offered = True
        self._jobs[job.handover] = job
        self._offered.add(job.handover)
        self._outbox.offer(job.handover, job.submit, job.seq.ingress_id, job.submit.decode, job.seq.num_tokens)

    def on_layer(self, chunks: Sequence[ScheduledChunk], jobs: Sequence[Job]) -> Push | None:
        """What to call after each layer of this step; None when nothing of it is handed over."""
        going = [
            Going(
                job.handover,
                chunk.seq.num_scheduled_tokens + chunk.num_tokens,
                tuple(chunk.seq.block_ids),
                tuple(chunk.seq.state_ids),
            )
            for chunk, job in zip(chunks, jobs, strict=True)
            if job.handover is not None and job.handover in self._jobs
        ]
        return Push(going, self._outbox.computed) if going else None

    def complete(self, job: Job, first_tokens: Sequence[tuple[int, int]]) -> None:
        """The prompt is computed and `first_tokens` are out; nothing left to decode cancels the ticket."""
        assert job.handover is not None
        job.seq.status = Status.SENDING
        if first_tokens:
            self._outbox.complete(job.handover, job.seq.num_computed_tokens, first_tokens)
        else:
            self._outbox.abort(job.handover)

    def abort(self, job: Job) -> None:
        assert job.handover is not None
        job.seq.status = Status.SENDING
        self._outbox.abort(job.handover)

    def abort_request(self, request_id: str, attempt: int, choices: Sequence[int]) -> None:
        """Ends what is still being sent of a request whose prompt is computed; choices empty: all of them."""
        for key, job in list(self._jobs.items()):
            if key.request_id != request_id or key.attempt > attempt or job.seq.status is not Status.SENDING:
                continue
            job.choices = [choice for choice in job.choices if choices and choice not in choices]
            if not job.choices:
                self._outbox.abort(key)

    def abort_ingress(self, ingress_id: str) -> None:
        for key, job in list(self._jobs.items()):
            if job.seq.ingress_id == ingress_id:
                self._outbox.abort(key)

    def forget_blocks(self, job: Job) -> None:
        """The job's blocks are gone (preempted): ends the transfer and waits for nothing."""
        assert job.handover is not None
        self._jobs.pop(job.handover, None)
        self._outbox.abort(job.handover)

    def is_offered(self, key: TransferKey) -> bool:
        """Whether the link has a transfer of this key, which then cannot be offered again."""
        return key in self._offered

    def is_sending(self, job: Job) -> bool:
        return job.handover is not None and job.handover in self._jobs

    def ended(self) -> list[tuple[Job, BatonError | None, bool]]:
        """(job, error, acked) of the transfers that have ended since the last call; their blocks are free now.

        A job that ends while it is still computing keeps its blocks: the caller decides about it.
        """
        done = []
        for event in self._outbox.poll():
            if not isinstance(event, Acked | Ended):
                continue
            self._offered.discard(event.key)
            job = self._jobs.pop(event.key, None)
            if job is None:
                continue
            if job.seq.status is Status.SENDING:
                self._blocks.free(job.seq)
            done.append((job, event.error if isinstance(event, Ended) else None, isinstance(event, Acked)))
        return done
