"""The simulated ingress replica: production's `Requests`, with virtual time and without streams or tasks.

It keeps each request's record, and has it checked that its tokens come in order, each once, and one end.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from baton.errors import InvalidRequestError, OverloadedError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR, SamplingParams
from baton.v1.worker_pb2 import Abort, Submit, TokenOutput, WorkerState
from cluster.config.schema import RouterConfig
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster
from cluster.router.active import Active, Timer
from cluster.router.admission import Admission
from cluster.router.lifecycle import Lifecycle
from cluster.router.requests import Requests
from cluster.router.table import WorkerTable
from cluster.router.workers import WorkerEntry, WorkerKey
from cluster.simulator.events import MESSAGE, TIMER, EventQueue
from cluster.simulator.invariants import Answers
from cluster.simulator.jobs import Request


@dataclass(slots=True, kw_only=True, eq=False)
class SimActive(Active):
    record: RequestRecord
    request: Request
    num_delivered: int = 0

    def block_hashes(self, output_token_ids: Sequence[int], block_size: int) -> Sequence[int]:
        num_tokens = self.num_prompt_tokens + len(output_token_ids)
        return self.request.block_hashes[: num_tokens // block_size]


class SimIngress:
    """Args:
    submit, abort: Send a message to a worker that is up.
    flush: Tokens of a request that a worker has written and not told of.
    """

    def __init__(
        self,
        *,
        cluster: SimCluster,
        queue: EventQueue,
        rng: Random,
        submit: Callable[[WorkerKey, Submit], None],
        abort: Callable[[WorkerKey, Abort], None],
        flush: Callable[[WorkerKey, str], TokenOutput | None],
        answers: Answers,
    ) -> None:
        self.table = WorkerTable(step_timeout_s=cluster.health.step_timeout_s)
        self._config = cluster.router
        self._ingress_s = cluster.ingress_s
        self._queue = queue
        self._send_submit = submit
        self._send_abort = abort
        self._flush = flush
        self._answers = answers
        self._connected: set[WorkerKey] = set()
        self._deadlines: deque[tuple[float, str]] = deque()  # one timeout for all: in order
        self._is_watching = False  # an event is pending for the first of them
        self._requests: Requests[SimActive] = Requests(
            table=self.table,
            config=cluster.router,
            start_timeout_s=cluster.health.start_timeout_s,
            rng=rng,
            submit=self._submit,
            abort=self._abort,
            deliver=self._deliver,
            ended=self._ended,
            alarm=self._alarm,
            block_hashes=SimActive.block_hashes,
            refusal=lambda: None,  # secrets are not simulated
        )

    @property
    def num_open(self) -> int:
        return len(self._requests)

    @property
    def admission(self) -> Admission:
        return self._requests.admission

    def request(self, request_id: str) -> Request | None:
        """None: it has ended, and aborts are on their way."""
        active = self._requests.get(request_id)
        return active.request if active is not None else None

    def tune(self, router: RouterConfig) -> None:
        for active in self._requests.tune(router):
            self._queue.push(self._queue.now_s, TIMER, active.record.index, self._launch, active)

    # Workers.

    def set_workers(self, entries: Sequence[WorkerEntry]) -> None:
        """The controller's newest table; a new worker is connected when it reports."""
        self.table.replace(entries)
        self._connected.update(self.table.entries())

    def report(self, key: WorkerKey, state: WorkerState) -> None:
        now_s = self._queue.now_s
        if key in self._connected and self.table.report(key, state, now_s=now_s):
            self._requests.launch_unrouted(now_s)

    def lose_worker(self, key: WorkerKey, reason: str, *, died_s: float) -> None:
        """The stream to the worker broke: seen when all that it had sent has been read."""
        last_s = died_s + self._ingress_s
        if last_s <= self._queue.now_s:
            self._lose_worker((key, reason))
        else:
            self._queue.push(last_s, MESSAGE, 0, self._lose_worker, (key, reason))

    def _lose_worker(self, loss: tuple[WorkerKey, str]) -> None:
        key, reason = loss
        if key not in self._connected:
            return
        self._connected.remove(key)
        self.table.disconnect(key)
        for request_id in self.table.dependents(key):
            self._catch_up(request_id)
        self._requests.lose_worker(key, reason, self._queue.now_s)

    # Requests.

    def arrive(self, record: RequestRecord, arrival: Arrival, block_hashes: list[int]) -> None:
        now_s = self._queue.now_s
        lifecycle = Lifecycle(
            request_id=str(record.index),
            prompt_token_ids=(),  # the workers know how many there are
            sampling=SamplingParams(n=1, max_tokens=arrival.num_output_tokens, seed=1, ignore_eos=True),
            deadline_s=now_s + self._config.request_timeout_s,
            max_retries=self._config.max_retries,
        )
        active = SimActive(
            lifecycle=lifecycle,
            num_prompt_tokens=arrival.num_prompt_tokens,
            max_tokens=arrival.num_output_tokens,
            record=record,
            request=Request(arrival.num_prompt_tokens, arrival.num_output_tokens, block_hashes),
        )
        try:
            self._requests.arrive(active, now_s)
        except (InvalidRequestError, OverloadedError) as error:
            record.error = error.code
            self._answers.end(record.index)

    def take_outputs(self, news: tuple[WorkerKey, list[TokenOutput]]) -> None:
        sender, outputs = news
        for output in outputs:
            if output.finish_reason == FINISH_REASON_ERROR:
                self._catch_up(output.request_id)
            self._requests.take_outputs(sender, (output,), self._queue.now_s)

    def _catch_up(self, request_id: str) -> None:
        """Delivers what the request's workers have written and not told of, as they would have token by token."""
        active = self._requests.get(request_id)
        for key in sorted(active.lifecycle.workers()) if active is not None else ():
            output = self._flush(key, request_id)
            if output is not None:
                self._requests.take_outputs(key, (output,), self._queue.now_s)

    # What requests ask.

    def _submit(self, active: SimActive, worker: WorkerKey, submit: Submit) -> None:
        record, is_handed_over = active.record, submit.HasField("decode")
        record.num_attempts = submit.attempt + 1
        record.prefill_id = worker.worker_id if is_handed_over else ""
        record.decode_id = submit.decode.worker_id if is_handed_over else worker.worker_id
        self._send_submit(worker, submit)

    def _abort(self, worker: WorkerKey, abort: Abort) -> None:
        if worker in self._connected:
            self._send_abort(worker, abort)

    def _deliver(self, active: SimActive, outputs: Sequence[TokenOutput]) -> None:
        record = active.record
        for output in outputs:
            self._answers.read(record.index, output, record.num_output_tokens)
            if output.num_cached_tokens:
                record.num_cached_tokens = output.num_cached_tokens
            if active.num_delivered == 0 and output.token_ids:
                record.first_token_s = self._queue.now_s
            active.num_delivered += len(output.token_ids)
            if output.finish_reason:
                record.finished_s = self._queue.now_s

    def _ended(self, active: SimActive, admitted: Sequence[SimActive]) -> None:
        record = active.record
        if active.lifecycle.failure is not None:
            record.error = active.lifecycle.failure.code
            self._answers.end(record.index)
        for other in admitted:
            self._queue.push(self._queue.now_s, TIMER, record.index, self._launch, other)

    def _launch(self, active: SimActive) -> None:
        self._requests.launch(active, self._queue.now_s)

    def _alarm(self, active: SimActive, timer: Timer, at_s: float) -> Callable[[], object]:
        if timer is Timer.DEADLINE:
            self._watch_deadline(at_s, active.request_id)
            return _nothing
        number = self._queue.push(at_s, TIMER, active.record.index, self._ring, (active, timer))
        return partial(self._queue.cancel, number)

    def _ring(self, alarm: tuple[SimActive, Timer]) -> None:
        self._requests.ring(*alarm, self._queue.now_s)

    # Deadlines: nearly all are in vain, so there is one event for all of them.

    def _watch_deadline(self, deadline_s: float, request_id: str) -> None:
        self._first_deadline()
        self._deadlines.append((deadline_s, request_id))
        self._watch_first()

    def _watch_first(self) -> None:
        if self._deadlines and not self._is_watching:
            self._is_watching = True
            self._queue.push(self._deadlines[0][0], TIMER, 0, self._expire, keeps_running=False)

    def _expire(self, _: None) -> None:
        """Fails what is overdue, and looks again when the next request will be."""
        self._is_watching = False
        now_s = self._queue.now_s
        while (first := self._first_deadline()) is not None and first.lifecycle.deadline_s <= now_s:
            self._requests.ring(first, Timer.DEADLINE, now_s)
        self._watch_first()

    def _first_deadline(self) -> SimActive | None:
        """Whose it is, of those that are still there; the others are forgotten."""
        deadlines = self._deadlines
        while deadlines:
            active = self._requests.get(deadlines[0][1])
            if active is not None:
                return active
            deadlines.popleft()
        return None


def _nothing() -> None:
    """Deadlines of requests that have ended are skipped when they come."""
