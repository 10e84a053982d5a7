"""The decode side of hand-overs: offers that wait for blocks, tickets granted, blocks in quarantine.

Invariant: a granted job's blocks are neither read nor freed until the link says Arrived or Lost; after an own abort
they are in quarantine until then.
"""

from collections import deque

from baton.errors import BatonError, CancelledError, UnavailableError
from workers.engine.block_manager import BlockManager
from workers.engine.jobs import Job
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence as Seq
from workers.engine.sequence import Status
from workers.kv_transfer.link import Arrived, Inbox, Lost, Offered, TransferKey


class Receiving:
    def __init__(self, *, inbox: Inbox, blocks: BlockManager, scheduler: Scheduler) -> None:
        self._inbox = inbox
        self._blocks = blocks
        self._scheduler = scheduler
        self._pending: deque[Job] = deque()
        self._unready: list[Job] = []  # whose grammar is being compiled
        self._granted: dict[TransferKey, Job] = {}
        self._quarantined: set[TransferKey] = set()

    def __len__(self) -> int:
        return len(self._pending) + len(self._unready) + len(self._granted) + len(self._quarantined)

    @property
    def num_pending(self) -> int:
        return len(self._pending) + len(self._unready)

    def offers(self) -> tuple[list[Offered], list[tuple[Job, Arrived]], list[tuple[Job, BatonError | None]]]:
        """New offers, jobs whose KV is whole, and jobs whose transfer was lost (their blocks are freed here)."""
        offered: list[Offered] = []
        arrived: list[tuple[Job, Arrived]] = []
        lost: list[tuple[Job, BatonError | None]] = []
        for event in self._inbox.poll():
            if isinstance(event, Offered):
                offered.append(event)
                continue
            if event.key in self._quarantined:
                self._quarantined.remove(event.key)
                self._blocks.release_quarantine(event.key)
                continue
            job = self._granted.pop(event.key, None)
            if isinstance(event, Arrived):
                assert job is not None, f"{event.key} arrived without a ticket"
                arrived.append((job, event))
            elif job is not None:
                self._blocks.free(job.seq)
                lost.append((job, event.error))
            else:
                lost.extend(self._forget_pending(event))
        return offered, arrived, lost

    def _forget_pending(self, event: Lost) -> list[tuple[Job, BatonError | None]]:
        gone = [job for job in (*self._pending, *self._unready) if job.handover == event.key]
        for job in gone:
            self._forget(job)
        return [(job, event.error) for job in gone]

    def _forget(self, job: Job) -> bool:
        """Whether it was waiting for a ticket."""
        for jobs in (self._pending, self._unready):
            if job in jobs:
                jobs.remove(job)
                return True
        return False

    def hold(self, job: Job) -> None:
        """Takes an offer that gets no ticket before `enqueue`."""
        job.seq.status = Status.RECEIVING
        self._unready.append(job)

    def enqueue(self, job: Job) -> None:
        """Of a job that was held."""
        self._unready.remove(job)
        self._pending.append(job)

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        self._inbox.refuse(key, error)

    def grant(self, now_s: float) -> None:
        """Hands out tickets in order of arrival, while blocks and places last."""
        while self._pending and self._reserve(self._pending[0]):
            job = self._pending.popleft()
            assert job.handover is not None
            self._granted[job.handover] = job
            if job.trace is not None:
                job.trace.granted_s = now_s
            seq = job.seq
            self._inbox.grant(job.handover, tuple(seq.block_ids), seq.num_cached_tokens, tuple(seq.state_ids))

    def _reserve(self, job: Job) -> bool:
        """Blocks for the prompt and one token more, if the scheduler has room; or nothing."""
        if not self._scheduler.can_receive(job.seq, len(self._granted)):
            return False
        self._blocks.allocate(job.seq, brings_state=True)
        self._blocks.grow(job.seq, job.seq.num_tokens + 1)
        return True

    def abort(self, job: Job, error: BatonError | None = None) -> None:
        """Idempotent. Blocks of a granted job go to quarantine until no write to them is in flight.

        Args:
            error: Told to whoever offers it, where it has no ticket yet.
        """
        assert job.handover is not None
        if self._forget(job):
            self._inbox.refuse(job.handover, error or CancelledError("the request was aborted"))
        elif self._granted.pop(job.handover, None) is not None:
            self._quarantined.add(job.handover)
            self._blocks.quarantine(job.seq, job.handover)
            self._inbox.abort(job.handover)

    def refuse_pending(self, error: BatonError) -> list[Job]:
        """Gives back every offer that has no blocks yet."""
        given_back = [*self._pending, *self._unready]
        self._pending.clear()
        self._unready.clear()
        for job in given_back:
            assert job.handover is not None
            self._inbox.refuse(job.handover, error)
        return given_back


def fault_of(arrival: Arrived, seq: Seq, vocab_size: int | None) -> UnavailableError | None:
    """Why what a peer sent is of no use, if so. `vocab_size`: None: nobody computes with token ids."""
    name = arrival.key.request_id
    if arrival.num_tokens != seq.num_tokens:
        return UnavailableError(f"{name}: KV of {arrival.num_tokens} tokens came, the request has {seq.num_tokens}")
    highest = max((token for _, token in arrival.first_tokens), default=0)
    if vocab_size is not None and highest >= vocab_size:
        return UnavailableError(f"{name}: token id {highest} came, of a vocabulary of {vocab_size}")
    return None
