"""Runs requests on workers: admits, routes, sends, and delivers tokens in order until each request's one end.

Invariant: a request is in `_requests` from its arrival until its lifecycle is finished, and nothing of it is left
anywhere else then. Rules live in `admission`, `lifecycle` and `policy`; streams in `links` and `session`. No task per
request or token: a step's message fans out in one loop.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from baton.errors import BatonError, DeadlineExceededError, InvalidRequestError, UnavailableError
from baton.v1.inference_pb2 import FinishReason
from baton.v1.worker_pb2 import DecodeRoute, TokenOutput, ToWorker
from cluster.config import HealthConfig, RouterConfig
from cluster.router.active import Active, DispatchRequest
from cluster.router.admission import Admission
from cluster.router.lifecycle import Launch, Lifecycle
from cluster.router.links import Links
from cluster.router.policy import Policy, Route, RouteRequest
from cluster.router.session import WorkerLink
from cluster.router.table import Health
from cluster.router.workers import WorkerEntry, WorkerKey, WorkerView

__all__ = ["Counters", "DispatchRequest", "Dispatcher", "Health"]


@dataclass(slots=True, kw_only=True)
class Counters:
    """Of this ingress replica. `finished` counts choices by reason: stop, length, abort (by the caller), error."""

    num_queued: int = 0
    num_running: int = 0
    num_shed: int = 0
    num_retries: int = 0
    num_lost_workers: int = 0
    finished: Counter[str] = field(default_factory=Counter)


class Dispatcher:
    """`rng` breaks ties among equal workers; its default is seeded by the system."""

    def __init__(
        self,
        *,
        ingress_id: str,
        secret: str,
        config: RouterConfig,
        health: HealthConfig,
        fetch_workers: Callable[[], Awaitable[Sequence[WorkerEntry]]],
        rng: Random | None = None,
    ) -> None:
        self._config = config
        self._health = health
        self._rng = rng or Random()
        self._admission = Admission(max_running=config.max_running, max_queue=config.max_queue)
        self._policy = Policy(disaggregate_over_tokens=config.disaggregate_over_tokens)
        self._requests: dict[str, Active] = {}
        self._unrouted: dict[str, Active] = {}  # wait for a worker
        self._counters = Counters()
        self._closed = False
        self._links = Links(
            ingress_id=ingress_id,
            secret=secret,
            health=health,
            fetch_workers=fetch_workers,
            on_outputs=self._take_outputs,
            on_lost=self._lose_worker,
            on_change=self._launch_unrouted,
        )

    async def start(self) -> None:
        """Returns when the worker table was asked for once; requests may wait for workers from then on."""
        await self._links.start()

    async def close(self) -> None:
        """Fails what still runs with UnavailableError, aborts it on the workers and closes the streams."""
        self._closed = True
        for active in list(self._requests.values()):
            self._fail(active, UnavailableError("the server is shutting down"))
        await self._links.close()

    @property
    def max_model_len(self) -> int:
        """Of any worker that decodes; 0 until one has reported."""
        return self._links.table.max_model_len

    @property
    def max_request_tokens(self) -> int:
        """Prompt and output tokens that can ever fit a worker; 0 until one that decodes has reported."""
        return self._links.table.max_request_tokens

    def states(self) -> list[WorkerView]:
        return self._links.table.views(time.monotonic())

    def health(self) -> Health:
        return self._links.table.health()

    @property
    def counters(self) -> Counters:
        """A view of now; `finished` is shared, to be read only."""
        self._counters.num_queued = self._admission.num_queued
        self._counters.num_running = self._admission.num_running
        self._counters.num_shed = self._admission.num_shed
        return self._counters

    async def generate(self, request: DispatchRequest) -> AsyncGenerator[list[TokenOutput], None]:
        """Yields outputs, in order and each token once per choice; a choice's last one has its finish reason.

        Closing the generator aborts the request on every worker that knew it.

        Raises:
            InvalidRequestError: It can never fit.
            OverloadedError: The queue is full.
            UnavailableError: No worker came in time, or all retries were lost.
            UnauthenticatedError: Every worker refuses this ingress's secret.
            DeadlineExceededError: `deadline_s` came first.
            BatonError: What a worker says is wrong with the request.
        """
        active = self._arrive(request)
        try:
            while True:
                if active.outbox:
                    outputs, active.outbox = active.outbox, []
                    yield outputs
                elif active.lifecycle.failure is not None:
                    raise active.lifecycle.failure
                elif active.lifecycle.finished:
                    return
                else:
                    await active.news.wait()
                    active.news.clear()
        finally:
            active.lifecycle.end()
            self._settle(active)

    def abort_choice(self, request_id: str, choice: int) -> None:
        """The caller has ended this choice, for example at a stop string; no output of it follows. Idempotent."""
        active = self._requests.get(request_id)
        if active is not None:
            active.lifecycle.abort_choice(choice)
            active.outbox = [output for output in active.outbox if output.choice != choice]
            self._settle(active)

    def _arrive(self, request: DispatchRequest) -> Active:
        if self._closed:
            raise UnavailableError("the server is shutting down")
        if not request.prompt_token_ids:
            raise InvalidRequestError("prompt: 0 tokens; give at least one", "prompt")
        self._check_fits(request)
        now_s = time.monotonic()
        if request.deadline_s <= now_s:
            raise DeadlineExceededError(f"request {request.request_id}: its deadline passed before it arrived")
        lifecycle = Lifecycle(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling=request.sampling,
            deadline_s=request.deadline_s,
            max_retries=self._config.max_retries,
        )
        active = Active(request=request, lifecycle=lifecycle)
        runs = self._admission.arrive(request.request_id, deadline_s=request.deadline_s, now_s=now_s)
        self._requests[request.request_id] = active
        active.set_timer("deadline", request.deadline_s, self._expire)
        if runs:
            self._launch(active)
        return active

    def _check_fits(self, request: DispatchRequest) -> None:
        limit = self.max_request_tokens
        num_prompt, num_output = len(request.prompt_token_ids), request.sampling.max_tokens
        if limit == 0 or num_prompt + num_output <= limit:
            return
        if num_prompt >= limit:
            text = f"prompt: {num_prompt} tokens, but prompt and output together fit at most {limit}"
            raise InvalidRequestError(f"{text}; shorten the prompt", "prompt")
        text = f"max_tokens: {num_output} with a prompt of {num_prompt} tokens, but at most {limit} fit together"
        raise InvalidRequestError(f"{text}; ask for {limit - num_prompt} or fewer", "max_tokens")

    def _launch(self, active: Active) -> None:
        """Sends what waits for an attempt, or leaves it until a worker is there or its time has come."""
        now_s = time.monotonic()
        self._unrouted.pop(active.request_id, None)
        launches = active.lifecycle.launches()
        later = [launch.not_before_s for launch in launches if launch.not_before_s > now_s]
        if later:
            active.set_timer("retry", min(later), self._launch)
        for launch in launches:
            if launch.not_before_s > now_s:
                continue
            route = self._route(active, launch, now_s)
            if route is None:
                self._wait_for_worker(active)
                return
            self._send(active, launch, route, now_s)
        active.clear_timer("worker")

    def _route(self, active: Active, launch: Launch, now_s: float) -> Route | None:
        pools = self._links.table.pools
        if not pools.decode:
            return None
        request, output = active.request, launch.output_token_ids
        facts = RouteRequest(
            num_tokens=len(request.prompt_token_ids) + len(output),
            max_total_tokens=request.max_total_tokens,
            num_choices=len(launch.choices),
            block_hashes=active.block_hashes(output, pools.decode[0].block_size),
            excluded=frozenset(key.worker_id for key in active.lifecycle.excluded if self._links.table.load(key)),
        )
        return self._policy.route(facts, pools, self._links.table.prefix, now_s, self._rng)

    def _wait_for_worker(self, active: Active) -> None:
        """Bounded by the time a replacement needs to start; ends at once where waiting cannot help."""
        refusal = self._links.refusal()
        if refusal is not None:
            self._fail(active, refusal)
            return
        try:
            self._check_fits(active.request)
        except InvalidRequestError as error:
            self._fail(active, error)
            return
        self._unrouted[active.request_id] = active
        if "worker" not in active.timers:
            active.set_timer("worker", time.monotonic() + self._health.start_timeout_s, self._give_up)

    def _send(self, active: Active, launch: Launch, route: Route, now_s: float) -> None:
        decode = self._link(route.decode_id)
        prefill = self._link(route.prefill_id) if route.prefill_id is not None else None
        target = DecodeRoute(worker_id=decode.key.worker_id, incarnation=decode.key.incarnation, address=decode.address)
        submit = active.lifecycle.dispatch(launch, prefill=prefill.key if prefill else None, route=target, now_s=now_s)
        reader = prefill or decode
        reader.send(ToWorker(submit=submit))
        num_tokens = len(active.request.prompt_token_ids) + len(launch.output_token_ids)
        by_id = self._links.table.pools.by_id
        by_id[reader.key.worker_id].sent(num_tokens=num_tokens - route.num_cached_tokens, num_sequences=0, num_blocks=0)
        load = by_id[route.decode_id]
        num_blocks = -(-num_tokens // load.block_size)
        load.sent(num_tokens=0, num_sequences=len(launch.choices), num_blocks=num_blocks)
        for link in {reader, decode}:
            self._attach(active, link, len(launch.choices))

    def _link(self, worker_id: str) -> WorkerLink:
        link = self._links.up(self._links.table.key(worker_id))
        assert link is not None, f"{worker_id} is in a pool and not connected"
        return link

    def _attach(self, active: Active, link: WorkerLink, num_sequences: int) -> None:
        request_id = active.request_id
        active.links.add(link)
        link.sequences[request_id] = link.sequences.get(request_id, 0) + num_sequences
        self._book_outstanding(link)

    def _detach(self, active: Active, keep: set[WorkerKey]) -> None:
        for link in [link for link in active.links if link.key not in keep]:
            active.links.remove(link)
            link.sequences.pop(active.request_id, None)
            self._book_outstanding(link)

    def _book_outstanding(self, link: WorkerLink) -> None:
        load = self._links.table.load(link.key)
        if load is not None:
            load.num_outstanding = link.num_outstanding

    def _take_outputs(self, link: WorkerLink, outputs: Iterable[TokenOutput]) -> None:
        """One step's news of one worker: the hot path."""
        now_s = time.monotonic()
        requests, sender = self._requests, link.key
        for output in outputs:
            active = requests.get(output.request_id)
            if active is None:
                continue
            delivered = active.lifecycle.accept(output, sender, now_s)
            if delivered:
                active.outbox += delivered
                active.news.set()
            if output.finish_reason or (delivered and delivered[-1].finish_reason):
                self._settle(active)

    def _lose_worker(self, link: WorkerLink, reason: str) -> None:
        self._counters.num_lost_workers += 1
        now_s = time.monotonic()
        for request_id in list(link.sequences):
            active = self._requests.get(request_id)
            if active is not None:
                active.outbox += active.lifecycle.lose(link.key, reason, now_s)
                self._settle(active)

    def _launch_unrouted(self) -> None:
        for active in list(self._unrouted.values()):
            self._launch(active)

    def _give_up(self, active: Active) -> None:
        health = self.health()
        text = f"no worker for request {active.request_id} within {self._health.start_timeout_s:.0f} s"
        self._fail(active, UnavailableError(f"{text} (health.start_timeout_s): {health.reason}"))

    def _expire(self, active: Active) -> None:
        for request_id in self._admission.expire(time.monotonic()):
            text = f"request {request_id} was still queued at its deadline; raise timeout_s or try again later"
            self._fail(self._requests[request_id], DeadlineExceededError(text))
        text = f"request {active.request_id} was not finished at its deadline; raise timeout_s"
        self._fail(active, DeadlineExceededError(text))

    def _fail(self, active: Active, error: BatonError) -> None:
        active.lifecycle.fail(error)
        self._settle(active)

    def _settle(self, active: Active) -> None:
        """After any change of state: sends aborts, starts what waits, wakes the reader, forgets what has ended."""
        lifecycle = active.lifecycle
        for key, abort in lifecycle.take_aborts():
            link = self._links.up(key)
            if link is not None:
                link.send(ToWorker(abort=abort))
        if lifecycle.finished:
            self._forget(active)
        else:
            self._detach(active, keep=lifecycle.workers())
            if not self._admission.is_queued(active.request_id):
                self._launch(active)
        if active.outbox or lifecycle.finished:
            active.news.set()

    def _forget(self, active: Active) -> None:
        """Idempotent; lets the next ones in."""
        request_id = active.request_id
        if self._requests.pop(request_id, None) is None:
            return
        self._unrouted.pop(request_id, None)
        self._detach(active, keep=set())
        active.clear_timers()
        self._counters.num_retries += active.lifecycle.num_retries
        for reason in active.lifecycle.finish_reasons():
            self._counters.finished[FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()] += 1
        for admitted in self._admission.leave(request_id, now_s=time.monotonic()):
            asyncio.get_running_loop().call_soon(self._launch, self._requests[admitted])
