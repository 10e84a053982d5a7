"""The simulated ingress replica: what `cluster.router.dispatcher.Dispatcher` does, without streams or tasks.

Admission, policy, lifecycle, worker table and prefix index are production's own classes. It keeps each request's
record, and has it checked that its tokens come in order, each once, and one end.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from baton.errors import BatonError, DeadlineExceededError, InvalidRequestError, OverloadedError, UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR, SamplingParams
from baton.v1.worker_pb2 import Abort, DecodeRoute, Submit, TokenOutput, WorkerState
from cluster.router.admission import Admission
from cluster.router.lifecycle import Launch, Lifecycle
from cluster.router.policy import Policy, Route, RouteRequest
from cluster.router.table import WorkerTable
from cluster.router.workers import WorkerEntry, WorkerKey
from cluster.simulator.contract import Arrival, RequestRecord, SimCluster
from cluster.simulator.events import MESSAGE, TIMER, EventQueue
from cluster.simulator.invariants import Answers
from cluster.simulator.jobs import Request


@dataclass(slots=True, eq=False)
class _Link:
    key: WorkerKey
    sequences: dict[str, int] = field(default_factory=dict)
    num_outstanding: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Active:
    """One request while the ingress has it."""

    request_id: str
    record: RequestRecord
    request: Request
    deadline_s: float
    lifecycle: Lifecycle
    num_delivered: int = 0
    links: dict[WorkerKey, _Link] = field(default_factory=dict)
    retry_timer: int | None = None
    worker_timer: int | None = None


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
        self._cluster = cluster
        self._queue = queue
        self._rng = rng
        self._submit = submit
        self._abort = abort
        self._flush = flush
        self._answers = answers
        self.admission = Admission(max_running=cluster.router.max_running, max_queue=cluster.router.max_queue)
        self._policy = Policy(disaggregate_over_tokens=cluster.router.disaggregate_over_tokens)
        self._links: dict[WorkerKey, _Link] = {}
        self._requests: dict[str, Active] = {}
        self._unrouted: dict[str, Active] = {}
        self._deadlines: deque[tuple[float, str]] = deque()  # one timeout for all: in order
        self._is_watching = False  # an event is pending for the first of them

    @property
    def num_open(self) -> int:
        return len(self._requests)

    def request(self, request_id: str) -> Request | None:
        """None: it has ended, and aborts are on their way."""
        active = self._requests.get(request_id)
        return active.request if active is not None else None

    # Workers.

    def set_workers(self, entries: Sequence[WorkerEntry]) -> None:
        """The controller's newest table; a new worker is connected when it reports."""
        self.table.replace(entries)
        for key in self.table.entries():
            if key not in self._links:
                self._links[key] = _Link(key)

    def report(self, key: WorkerKey, state: WorkerState) -> None:
        link = self._links.get(key)
        if link is None:
            return
        changed = self.table.report(key, state, num_outstanding=link.num_outstanding, now_s=self._queue.now_s)
        if changed:
            for active in list(self._unrouted.values()):
                self._launch(active)

    def lose_worker(self, key: WorkerKey, reason: str, *, died_s: float) -> None:
        """The stream to the worker broke: seen when all that it had sent has been read."""
        last_s = died_s + self._cluster.ingress_s
        if last_s <= self._queue.now_s:
            self._lose_worker((key, reason))
        else:
            self._queue.push(last_s, MESSAGE, 0, self._lose_worker, (key, reason))

    def _lose_worker(self, loss: tuple[WorkerKey, str]) -> None:
        key, reason = loss
        link = self._links.pop(key, None)
        if link is None:
            return
        self.table.disconnect(key)
        for request_id in list(link.sequences):
            active = self._requests.get(request_id)
            if active is not None:
                self._catch_up(active)
                self._deliver(active, active.lifecycle.lose(key, reason, self._queue.now_s))
                self._settle(active)

    # Requests.

    def arrive(self, record: RequestRecord, arrival: Arrival, block_hashes: list[int]) -> None:
        now_s = self._queue.now_s
        deadline_s = now_s + self._config.request_timeout_s
        request_id = str(record.index)
        sampling = SamplingParams(n=1, max_tokens=arrival.num_output_tokens, seed=1, ignore_eos=True)
        lifecycle = Lifecycle(
            request_id=request_id,
            prompt_token_ids=(),  # the workers know how many there are
            sampling=sampling,
            deadline_s=deadline_s,
            max_retries=self._config.max_retries,
        )
        active = Active(
            request_id=request_id,
            record=record,
            request=Request(arrival.num_prompt_tokens, arrival.num_output_tokens, block_hashes),
            deadline_s=deadline_s,
            lifecycle=lifecycle,
        )
        try:
            self._check_fits(active)
            runs = self.admission.arrive(request_id, deadline_s=deadline_s, now_s=now_s)
        except (InvalidRequestError, OverloadedError) as error:
            record.error = error.code
            self._answers.end(record.index)
            return
        self._requests[request_id] = active
        self._watch_deadline(deadline_s, request_id)
        if runs:
            self._launch(active)

    def take_outputs(self, news: tuple[WorkerKey, list[TokenOutput]]) -> None:
        sender, outputs = news
        now_s = self._queue.now_s
        for output in outputs:
            active = self._requests.get(output.request_id)
            if active is None:
                continue
            has_ended = bool(output.finish_reason)
            if output.finish_reason == FINISH_REASON_ERROR:
                self._catch_up(active)
            self._deliver(active, active.lifecycle.accept(output, sender, now_s))
            if has_ended or active.lifecycle.finished:
                self._settle(active)

    def _catch_up(self, active: Active) -> None:
        """Delivers what the request's workers have written and not told of, as they would have token by token."""
        for key in sorted(active.lifecycle.workers()):
            output = self._flush(key, active.request_id)
            if output is not None:
                self._deliver(active, active.lifecycle.accept(output, key, self._queue.now_s))

    def _deliver(self, active: Active, outputs: Sequence[TokenOutput]) -> None:
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

    def _check_fits(self, active: Active) -> None:
        limit = self.table.max_request_tokens
        num_tokens = active.record.num_prompt_tokens + active.record.num_output_tokens
        if limit and num_tokens > limit:
            raise InvalidRequestError(f"prompt: {num_tokens} tokens with its output, at most {limit} fit", "prompt")

    def _launch(self, active: Active) -> None:
        """Sends what waits for an attempt, or leaves it until a worker is there or its time has come."""
        now_s = self._queue.now_s
        self._unrouted.pop(active.request_id, None)
        for launch in active.lifecycle.launches():
            if launch.not_before_s > now_s:
                self._set_retry(active, launch.not_before_s)
                return
            route = self._route(active, launch)
            if route is None:
                self._wait_for_worker(active)
                return
            self._send(active, launch, route)
        self._clear_timers(active)

    def _route(self, active: Active, launch: Launch) -> Route | None:
        pools = self.table.pools
        if not pools.decode:
            return None
        num_tokens = active.record.num_prompt_tokens + len(launch.output_token_ids)
        facts = RouteRequest(
            num_tokens=num_tokens,
            max_total_tokens=active.record.num_prompt_tokens + active.record.num_output_tokens,
            num_choices=len(launch.choices),
            block_hashes=active.request.block_hashes[: num_tokens // pools.decode[0].block_size],
            excluded=frozenset(key.worker_id for key in active.lifecycle.excluded if self.table.load(key)),
        )
        return self._policy.route(facts, pools, self.table.prefix, self._queue.now_s, self._rng)

    def _wait_for_worker(self, active: Active) -> None:
        try:
            self._check_fits(active)
        except InvalidRequestError as error:
            self._fail(active, error)
            return
        self._unrouted[active.request_id] = active
        if active.worker_timer is None:
            at_s = self._queue.now_s + self._cluster.health.start_timeout_s
            active.worker_timer = self._queue.push(at_s, TIMER, active.record.index, self._give_up, active)

    def _send(self, active: Active, launch: Launch, route: Route) -> None:
        record, table = active.record, self.table
        decode = self._links[table.key(route.decode_id)]
        prefill = self._links[table.key(route.prefill_id)] if route.prefill_id is not None else None
        target = DecodeRoute(worker_id=decode.key.worker_id, incarnation=decode.key.incarnation)
        submit = active.lifecycle.dispatch(
            launch, prefill=prefill.key if prefill else None, route=target, now_s=self._queue.now_s
        )
        record.num_attempts = submit.attempt + 1
        record.prefill_id, record.decode_id = route.prefill_id or "", route.decode_id
        reader = prefill or decode
        self._submit(reader.key, submit)
        num_tokens = record.num_prompt_tokens + len(launch.output_token_ids)
        by_id = table.pools.by_id
        by_id[reader.key.worker_id].sent(num_tokens=num_tokens - route.num_cached_tokens, num_sequences=0, num_blocks=0)
        load = by_id[route.decode_id]
        load.sent(num_tokens=0, num_sequences=len(launch.choices), num_blocks=-(-num_tokens // load.block_size))
        self._attach(active, reader)
        if decode is not reader:
            self._attach(active, decode)

    def _attach(self, active: Active, link: _Link) -> None:
        active.links[link.key] = link
        link.sequences[active.request_id] = link.sequences.get(active.request_id, 0) + 1
        self._book_outstanding(link, 1)

    def _detach(self, active: Active, keep: set[WorkerKey]) -> None:
        for link in [link for link in active.links.values() if link.key not in keep]:
            del active.links[link.key]
            self._book_outstanding(link, -link.sequences.pop(active.request_id, 0))

    def _book_outstanding(self, link: _Link, change: int) -> None:
        link.num_outstanding += change
        load = self.table.load(link.key)
        if load is not None:
            load.num_outstanding = link.num_outstanding

    def _give_up(self, active: Active) -> None:
        active.worker_timer = None
        timeout_s = self._cluster.health.start_timeout_s
        self._fail(active, UnavailableError(f"no worker for request {active.request_id} within {timeout_s:.0f} s"))

    def _fail(self, active: Active, error: BatonError) -> None:
        active.lifecycle.fail(error)
        self._settle(active)

    def _settle(self, active: Active) -> None:
        """After any change of state: sends aborts, starts what waits, forgets what has ended."""
        lifecycle = active.lifecycle
        for key, abort in lifecycle.take_aborts():
            if key in self._links:
                self._abort(key, abort)
        if lifecycle.finished:
            self._forget(active)
            return
        self._detach(active, keep=lifecycle.workers())
        if not self.admission.is_queued(active.request_id):
            self._launch(active)

    def _forget(self, active: Active) -> None:
        """Idempotent; lets the next ones in."""
        request_id = active.request_id
        if self._requests.pop(request_id, None) is None:
            return
        self._unrouted.pop(request_id, None)
        self._detach(active, keep=set())
        self._clear_timers(active)
        if active.lifecycle.failure is not None:
            active.record.error = active.lifecycle.failure.code
            self._answers.end(active.record.index)
        for admitted in self.admission.leave(request_id, now_s=self._queue.now_s):
            self._queue.push(self._queue.now_s, TIMER, active.record.index, self._launch, self._requests[admitted])

    # Timers.

    def _set_retry(self, active: Active, at_s: float) -> None:
        if active.retry_timer is None:
            active.retry_timer = self._queue.push(at_s, TIMER, active.record.index, self._retry, active)

    def _retry(self, active: Active) -> None:
        active.retry_timer = None
        self._launch(active)

    def _clear_timers(self, active: Active) -> None:
        for number in (active.retry_timer, active.worker_timer):
            if number is not None:
                self._queue.cancel(number)
        active.retry_timer = active.worker_timer = None

    def _watch_deadline(self, deadline_s: float, request_id: str) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self._requests:
            deadlines.popleft()
        deadlines.append((deadline_s, request_id))
        self._watch_first()

    def _watch_first(self) -> None:
        if self._deadlines and not self._is_watching:
            self._is_watching = True
            self._queue.push(self._deadlines[0][0], TIMER, 0, self._expire, keeps_running=False)

    def _expire(self, _: None) -> None:
        """Fails what is overdue, and looks again when the next request will be."""
        self._is_watching = False
        now_s, deadlines = self._queue.now_s, self._deadlines
        self.admission.expire(now_s)
        while deadlines and (deadlines[0][0] <= now_s or deadlines[0][1] not in self._requests):
            active = self._requests.get(deadlines.popleft()[1])
            if active is not None:
                text = f"request {active.request_id} was not finished at its deadline; raise timeout_s"
                self._fail(active, DeadlineExceededError(text))
        self._watch_first()
