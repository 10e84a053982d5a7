"""What must hold in a simulated cluster: counters after every event, everything from time to time and at the end.

Blocks: free + cached + referenced + quarantined = all, on every worker; nobody holds one but the worker's jobs and
those it still sends; at the end nobody does, nor a slot for a state. Answers: each request ends once; its tokens come
in order, none twice, none lost, whatever attempt they are of. Queues stay within their bounds, and nobody waits for
admission while a place is free.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from baton.v1.worker_pb2 import TokenOutput
from cluster.config.schema import KVConfig, RouterConfig
from cluster.router.admission import Admission
from cluster.router.workers import WorkerKey
from workers.engine.block_manager import BlockManager
from workers.engine.jobs import JobTable
from workers.engine.receiving import Receiving
from workers.engine.scheduler import Scheduler
from workers.engine.sending import Sending


class InvariantError(AssertionError):
    """A bug of Baton's or of the simulator's: says when, where and what."""


class CheckedWorker(Protocol):
    """What of a worker is looked at."""

    @property
    def key(self) -> WorkerKey: ...
    @property
    def blocks(self) -> BlockManager: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def jobs(self) -> JobTable: ...
    @property
    def sending(self) -> Sending: ...
    @property
    def receiving(self) -> Receiving: ...


class Answers:
    """What each client has read so far; requests are told apart by their index."""

    def __init__(self, num_requests: int) -> None:
        self._num_read = [0] * num_requests
        self._has_ended = bytearray(num_requests)

    def read(self, request: int, output: TokenOutput, num_asked: int) -> None:
        """The client reads one output; with a finish reason it is the request's end, after `num_asked` tokens."""
        num_tokens = len(output.token_ids)
        _require(not self._has_ended[request], "request %d: %d tokens after its end", request, num_tokens)
        num_read = self._num_read[request]
        _require(output.index == num_read, "request %d: read %d tokens, then token %d", request, num_read, output.index)
        self._num_read[request] += num_tokens
        if output.finish_reason:
            self.end(request)
            num_read = self._num_read[request]
            _require(num_read == num_asked, "request %d: ended with %d of %d tokens", request, num_read, num_asked)

    def end(self, request: int) -> None:
        """Its one final event: its last output, or an error."""
        _require(not self._has_ended[request], "request %d: a second end", request)
        self._has_ended[request] = 1

    def check_all_ended(self) -> None:
        open_ones = [request for request, has_ended in enumerate(self._has_ended) if not has_ended]
        _require(not open_ones, "requests %s never ended", open_ones[:10])


class Invariants:
    """Args:
    check_every: Events between full checks; None: only at the end.
    """

    def __init__(self, *, router: RouterConfig, kv: KVConfig, num_requests: int, check_every: int | None) -> None:
        self.answers = Answers(num_requests)
        self._router = router
        self._kv = kv
        self._check_every = check_every
        self._num_events = 0
        self._num_over = (0, 0)  # that ran, and waited, beyond limits when those fell

    def tuned(self, router: RouterConfig, admission: Admission) -> None:
        """Other limits hold from now on; who is in already stays."""
        self._router = router
        over = (admission.num_running - router.max_running, admission.num_queued - router.max_queue)
        self._num_over = (max(over[0], 0), max(over[1], 0))

    def after_event(
        self, touched: Iterable[CheckedWorker], everyone: Callable[[], Iterable[CheckedWorker]], admission: Admission
    ) -> None:
        """Counters of the workers whose state the event may have changed; in full if it is time."""
        for worker in touched:
            self.check_counters(worker)
        self.check_admission(admission)
        self._num_events += 1
        if self._check_every is not None and self._num_events % self._check_every == 0:
            for worker in everyone():
                self.check_worker(worker)

    def check_counters(self, worker: CheckedWorker) -> None:
        """O(1)."""
        blocks, name = worker.blocks, worker.key.worker_id
        num_free, num_referenced = blocks.num_free_blocks, blocks.num_referenced_blocks
        total = num_free + num_referenced + blocks.num_quarantined_blocks
        _require(total == blocks.num_blocks, "%s: blocks add up to %d of %d", name, total, blocks.num_blocks)
        num_pending, max_pending = worker.receiving.num_pending, self._kv.max_pending
        _require(num_pending <= max_pending, "%s: %d offers wait, at most %d may", name, num_pending, max_pending)

    def check_admission(self, admission: Admission) -> None:
        """O(1)."""
        running, queued = admission.num_running, admission.num_queued
        max_running, max_queue = self._router.max_running, self._router.max_queue
        over_running, over_queue = self._num_over
        _require(running <= max_running + over_running, "%d requests run, at most %d may", running, max_running)
        _require(queued <= max_queue + over_queue, "%d requests wait, at most %d may", queued, max_queue)
        _require(not queued or running >= max_running, "%d requests wait while a place is free", queued)

    def check_worker(self, worker: CheckedWorker) -> None:
        """In full: every block, every holder. O(blocks)."""
        self.check_counters(worker)
        jobs = {id(job): job for job in (*worker.jobs, *worker.sending.jobs)}
        holders = [job.seq for job in jobs.values() if job.seq.block_ids]
        try:
            worker.blocks.check_integrity(holders)
        except AssertionError as fault:
            raise InvariantError(f"{worker.key.worker_id}: {fault}") from fault
        for queue in (worker.scheduler.running, worker.scheduler.waiting):
            arrivals = [seq.arrived_s for seq in queue]
            _require(arrivals == sorted(arrivals), "%s: sequences out of order of arrival", worker.key.worker_id)
        strangers = [seq.key for seq in worker.scheduler.waiting if seq.block_ids]
        _require(not strangers, "%s: %s wait and hold blocks", worker.key.worker_id, strangers[:10])

    def check_end(self, workers: Iterable[CheckedWorker], admission: Admission) -> None:
        """Nothing is left anywhere, and everyone got an answer."""
        self.check_admission(admission)
        _require(admission.num_running == 0, "%d requests still run", admission.num_running)
        for worker in workers:
            self.check_worker(worker)
            name, blocks = worker.key.worker_id, worker.blocks
            num_jobs = len(worker.jobs) + len(worker.sending) + len(worker.receiving)
            _require(num_jobs == 0, "%s: %d jobs and transfers are left", name, num_jobs)
            _require(blocks.num_free_blocks == blocks.num_blocks, "%s: blocks in use at the end", name)
            _require(blocks.num_free_states == blocks.num_states, "%s: slots in use at the end", name)
        self.answers.check_all_ended()


def _require(holds: bool, text: str, *values: object) -> None:
    if not holds:
        raise InvariantError(text % values)
