"""All requests that an ingress has: each is admitted, routed, sent, sent again, and leaves with its one end.

Invariant: a request is here from its arrival until its lifecycle is finished; then no worker's load holds anything of
it and none of its timers is set. Nothing waits for longer than its deadline, or for a worker than `start_timeout_s`.
No streams, tasks or clock: the dispatcher and the simulated ingress bring news, and carry out what is asked of them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from random import Random
from typing import Generic, TypeVar

from baton.errors import BatonError, DeadlineExceededError, InvalidRequestError, ModelNotFoundError, UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR
from baton.v1.worker_pb2 import Abort, Submit, TokenOutput
from cluster.config.schema import RouterConfig
from cluster.router.active import Active, Alarm, Timer
from cluster.router.admission import Admission
from cluster.router.lifecycle import PREEMPTED, Launch
from cluster.router.policy import Policy, Route, RouteRequest
from cluster.router.table import WorkerTable
from cluster.router.track import Attempt
from cluster.router.workers import WorkerKey

A = TypeVar("A", bound=Active)


class Requests(Generic[A]):
    """
    Args:
        start_timeout_s: What a worker that is missing may take to come.
        rng: Breaks ties among equal workers.
        submit: Sends to a worker, one of the table's pools.
        abort: Sends to a worker if it is still there.
        deliver: Outputs for the client, in order, each token once.
        ended: A request is over; the others have got its place, and are to be launched in a turn of their own.
        alarm: Calls `ring` at a time; returns what cancels that.
        block_hashes: Of a request's prompt and these output tokens, for blocks of this size.
        refusal: Why every worker turns this ingress down, if every one does.
    """

    def __init__(
        self,
        *,
        table: WorkerTable,
        config: RouterConfig,
        start_timeout_s: float,
        rng: Random,
        submit: Callable[[A, WorkerKey, Submit], None],
        abort: Callable[[WorkerKey, Abort], None],
        deliver: Callable[[A, list[TokenOutput]], None],
        ended: Callable[[A, Sequence[A]], None],
        alarm: Callable[[A, Timer, float], Callable[[], object]],
        block_hashes: Callable[[A, Sequence[int], int], Sequence[int]],
        refusal: Callable[[], BatonError | None],
    ) -> None:
        self.admission = Admission(max_running=config.max_running, max_queue=config.max_queue)
        self._table = table
        self._start_timeout_s = start_timeout_s
        self._rng = rng
        self._policy = Policy(disaggregate_over_tokens=config.disaggregate_over_tokens)
        self._submit = submit
        self._abort = abort
        self._deliver = deliver
        self._ended = ended
        self._alarm = alarm
        self._block_hashes = block_hashes
        self._refusal = refusal
        self._open: dict[str, A] = {}
        self._unrouted: dict[str, A] = {}  # wait for a worker

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[A]:
        return iter(list(self._open.values()))

    def get(self, request_id: str) -> A | None:
        return self._open.get(request_id)

    def tune(self, config: RouterConfig) -> list[A]:
        """Limits of `config` from now on; returns those that may run because of it, to be launched each in a turn of
        its own.
        """
        self._policy.tune(disaggregate_over_tokens=config.disaggregate_over_tokens)
        admitted = self.admission.tune(max_running=config.max_running, max_queue=config.max_queue)
        return [self._open[request_id] for request_id in admitted]

    # News.

    def arrive(self, active: A, now_s: float) -> None:
        """
        Raises:
            InvalidRequestError: It can never fit.
            DeadlineExceededError: It is late already.
            OverloadedError: The queue is full.
        """
        self._check_fits(active)
        request_id, deadline_s = active.request_id, active.lifecycle.deadline_s
        if deadline_s <= now_s:
            raise DeadlineExceededError(f"request {request_id}: its deadline passed before it arrived")
        runs = self.admission.arrive(request_id, deadline_s=deadline_s, now_s=now_s)
        self._open[request_id] = active
        if active.lifecycle.track is not None:
            active.lifecycle.track.queued(now_s)
        self._set(active, Timer.DEADLINE, deadline_s)
        if runs:
            self.launch(active, now_s)

    def take_outputs(self, sender: WorkerKey, outputs: Iterable[TokenOutput], now_s: float) -> None:
        """One step's news of one worker: the hot path. Takes ownership of the outputs."""
        open_, deliver = self._open, self._deliver
        for output in outputs:
            active = open_.get(output.request_id)
            if active is None:
                continue
            if output.finish_reason == FINISH_REASON_ERROR:
                self._excuse(active, output)
            delivered = active.lifecycle.accept(output, sender, now_s)
            if delivered:
                deliver(active, delivered)
                output = delivered[-1]
            if output.finish_reason:
                self.reconcile(active, now_s)

    def _excuse(self, active: A, output: TokenOutput) -> None:
        """What breaks because a worker was to go, such as a hand-over to it, is nobody's fault."""
        if output.error.retryable and any(map(self._table.was_draining, active.lifecycle.workers())):
            output.error.code = PREEMPTED

    def lose_worker(self, worker: WorkerKey, reason: str, now_s: float) -> None:
        """It, or the stream to it, is gone; the table knows."""
        for request_id in self._table.dependents(worker):
            active = self._open.get(request_id)
            if active is not None:
                ended = active.lifecycle.lose(worker, reason, now_s, is_meant=self._table.was_draining(worker))
                if ended:
                    self._deliver(active, ended)
                self.reconcile(active, now_s)

    def launch_unrouted(self, now_s: float) -> None:
        """Which workers may be chosen has changed."""
        for active in list(self._unrouted.values()):
            self.launch(active, now_s)

    def ring(self, active: A, timer: Timer, now_s: float) -> None:
        """The time of one of its alarms has come."""
        active.alarms.pop(timer, None)
        if timer is Timer.DEADLINE:
            self._expire(active, now_s)
        elif timer is Timer.WORKER:
            self._give_up(active, now_s)
        else:
            self.launch(active, now_s)

    def fail(self, active: A, error: BatonError, now_s: float) -> None:
        active.lifecycle.fail(error)
        self.reconcile(active, now_s)

    def reconcile(self, active: A, now_s: float) -> None:
        """After any change of its lifecycle: sends aborts, starts what waits, forgets what has ended. Idempotent."""
        lifecycle = active.lifecycle
        for key, abort in lifecycle.take_aborts():
            self._abort(key, abort)
        if lifecycle.finished:
            self._forget(active, now_s)
            return
        self._detach(active, keep=lifecycle.workers() | lifecycle.drafts())
        if not self.admission.is_queued(active.request_id):
            self.launch(active, now_s)

    # Attempts.

    def launch(self, active: A, now_s: float) -> None:
        """Sends what waits for an attempt, or leaves it until a worker is there or its time has come."""
        self._unrouted.pop(active.request_id, None)
        if active.lifecycle.track is not None:
            active.lifecycle.track.admitted(now_s)
        launches = active.lifecycle.launches()
        later = [launch.not_before_s for launch in launches if launch.not_before_s > now_s]
        if later:
            self._set(active, Timer.RETRY, min(later))
        else:
            self._clear(active, Timer.RETRY)
        for launch in launches:
            if launch.not_before_s > now_s:
                continue
            route = self._route(active, launch, now_s)
            if route is None:
                self._wait_for_worker(active, now_s)
                return
            self._send(active, launch, route, now_s)
        self._clear(active, Timer.WORKER)

    def _route(self, active: A, launch: Launch, now_s: float) -> Route | None:
        table, output = self._table, launch.output_token_ids
        pools = table.pools
        if not pools.decode:
            return None
        facts = RouteRequest(
            num_tokens=active.num_prompt_tokens + len(output),
            max_total_tokens=active.num_prompt_tokens + active.max_tokens,
            num_choices=len(launch.choices),
            block_hashes=self._reusable(active, output, pools.decode[0].block_size),
            wants_drafts=active.lifecycle.wants_drafts,
            adapter=active.lifecycle.adapter,
            excluded=frozenset(key.worker_id for key in active.lifecycle.excluded if table.load(key)),
        )
        return self._policy.route(facts, pools, table.prefix, now_s, self._rng)

    def _reusable(self, active: A, output: Sequence[int], block_size: int) -> Sequence[int]:
        """Hashes of the blocks that a worker may take from its cache."""
        hashes = self._block_hashes(active, output, block_size)
        reads_from = active.lifecycle.reads_from
        return hashes if reads_from is None else hashes[: reads_from // block_size]

    def _wait_for_worker(self, active: A, now_s: float) -> None:
        """Bounded by the time a replacement needs to start; ends at once where waiting cannot help."""
        refusal = self._refusal() or self._lack(active)
        if refusal is not None:
            self.fail(active, refusal, now_s)
            return
        try:
            self._check_fits(active)
        except InvalidRequestError as error:
            self.fail(active, error, now_s)
            return
        self._unrouted[active.request_id] = active
        self._set(active, Timer.WORKER, now_s + self._start_timeout_s)

    def _lack(self, active: A) -> BatonError | None:
        """Of its adapter, where workers are there and none has it any more; while none is there, one may bring it."""
        adapter, decodes = active.lifecycle.adapter, self._table.pools.decode
        if adapter is None or not decodes or any(load.has(adapter) for load in decodes):
            return None
        return ModelNotFoundError(
            f"model: adapter {adapter.name!r} was unloaded; load it again, or name another", "model"
        )

    def _send(self, active: A, launch: Launch, route: Route, now_s: float) -> None:
        table = self._table
        decode = table.key(route.decode_id)
        prefill = table.key(route.prefill_id) if route.prefill_id is not None else None
        draft = table.draft_route(route.draft_id) if route.draft_id is not None else None
        submit = active.lifecycle.dispatch(
            launch, prefill=prefill, route=table.route(route.decode_id), draft=draft, now_s=now_s
        )
        reader = prefill or decode
        if active.lifecycle.track is not None:
            active.lifecycle.track.sent(_attempt(submit.attempt, launch, route, now_s))
        self._submit(active, reader, submit)
        num_tokens, num_choices = active.num_prompt_tokens + len(launch.output_token_ids), len(launch.choices)
        by_id = table.pools.by_id
        by_id[reader.worker_id].sent(num_tokens=num_tokens - route.num_cached_tokens, num_sequences=0, num_blocks=0)
        load = by_id[decode.worker_id]
        load.sent(num_tokens=0, num_sequences=num_choices, num_blocks=-(-num_tokens // load.block_size))
        for key in (prefill, decode, table.key(route.draft_id) if route.draft_id is not None else None):
            if key is not None:
                active.workers.add(key)
                table.attach(key, active.request_id, num_choices)

    def _detach(self, active: A, keep: Collection[WorkerKey]) -> None:
        for key in active.workers.difference(keep):
            active.workers.remove(key)
            self._table.detach(key, active.request_id)

    # Ends.

    def _check_fits(self, active: A) -> None:
        limit = self._table.max_request_tokens
        num_prompt, num_output = active.num_prompt_tokens, active.max_tokens
        if limit == 0 or num_prompt + num_output <= limit:
            return
        if num_prompt >= limit:
            text = f"prompt: {num_prompt} tokens, but prompt and output together fit at most {limit}"
            raise InvalidRequestError(f"{text}; shorten the prompt", "prompt")
        text = f"max_tokens: {num_output} with a prompt of {num_prompt} tokens, but at most {limit} fit together"
        raise InvalidRequestError(f"{text}; ask for {limit - num_prompt} or fewer", "max_tokens")

    def _give_up(self, active: A, now_s: float) -> None:
        text = f"no worker for request {active.request_id} within {self._start_timeout_s:.0f} s"
        reason = self._table.health().reason
        self.fail(active, UnavailableError(f"{text} (health.start_timeout_s): {reason}"), now_s)

    def _expire(self, active: A, now_s: float) -> None:
        for request_id in self.admission.expire(now_s):
            text = f"request {request_id} was still queued at its deadline; raise timeout_s or try again later"
            self.fail(self._open[request_id], DeadlineExceededError(text), now_s)
        text = f"request {active.request_id} was not finished at its deadline; raise timeout_s"
        self.fail(active, DeadlineExceededError(text), now_s)

    def _forget(self, active: A, now_s: float) -> None:
        """Idempotent; lets the next ones in."""
        request_id = active.request_id
        if self._open.pop(request_id, None) is None:
            return
        self._unrouted.pop(request_id, None)
        self._detach(active, keep=())
        for timer in list(active.alarms):
            self._clear(active, timer)
        admitted = self.admission.leave(request_id, now_s=now_s)
        self._ended(active, [self._open[other] for other in admitted])

    # Timers: at most one of a kind per request.

    def _set(self, active: A, timer: Timer, at_s: float) -> None:
        """One that is set for no later stays: who is rung too early asks again."""
        alarm = active.alarms.get(timer)
        if alarm is not None and alarm.at_s <= at_s:
            return
        self._clear(active, timer)
        active.alarms[timer] = Alarm(at_s, self._alarm(active, timer, at_s))

    def _clear(self, active: A, timer: Timer) -> None:
        alarm = active.alarms.pop(timer, None)
        if alarm is not None:
            alarm.cancel()


def _attempt(number: int, launch: Launch, route: Route, now_s: float) -> Attempt:
    return Attempt(
        number=number,
        choices=launch.choices,
        sent_s=now_s,
        prefill_id=route.prefill_id,
        decode_id=route.decode_id,
        draft_id=route.draft_id,
        num_expected_tokens=route.num_cached_tokens,
    )
