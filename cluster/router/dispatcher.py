"""Runs requests on workers: what `Requests` decides, over streams to workers and to those who wait for answers.

Invariant: whoever reads an answer is woken by each output and by its end. Streams live in `links` and `session`. No
task per request or token: a step's message fans out in one loop.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from baton.errors import InvalidRequestError, UnavailableError
from baton.v1.inference_pb2 import FinishReason, SamplingParams
from baton.v1.worker_pb2 import Abort, Submit, TokenOutput, ToWorker
from cluster.config.schema import HealthConfig, RouterConfig
from cluster.contracts.tuning import Tuning
from cluster.router.active import Active, Timer
from cluster.router.counters import Counters
from cluster.router.handovers import Handovers
from cluster.router.lifecycle import Lifecycle
from cluster.router.links import Links
from cluster.router.requests import Requests
from cluster.router.session import WorkerLink
from cluster.router.table import Health
from cluster.router.track import Track
from cluster.router.workers import WorkerEntry, WorkerKey, WorkerView
from workers.adapters.adapter import AdapterName, root_hash
from workers.engine.block_hash import ROOT, block_hashes

__all__ = ["Counters", "DispatchRequest", "Dispatcher", "Health"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRequest:
    request_id: str  # unique in the cluster
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams  # n, max_tokens and seed set
    deadline_s: float  # of time.monotonic()
    grammar: str = ""  # that outputs must follow, as in `Submit`; empty: none
    adapter: AdapterName | None = None  # None: the model as it is
    track: Track | None = None  # notes what becomes of it


@dataclass(slots=True, kw_only=True, eq=False)
class OpenRequest(Active):
    """A request and its reader. `news` is set when the outbox or the lifecycle has something to say."""

    prompt_token_ids: Sequence[int]
    arrived_s: float
    news: asyncio.Event = field(default_factory=asyncio.Event)
    outbox: list[TokenOutput] = field(default_factory=list)
    prompt_hashes: dict[int, list[int]] = field(default_factory=dict)  # by block size

    def block_hashes(self, output_token_ids: Sequence[int], block_size: int) -> list[int]:
        """The prompt's alone are kept: a request may wait and be routed again."""
        adapter = self.lifecycle.adapter
        root = root_hash(adapter.content_hash) if adapter is not None else ROOT
        if output_token_ids:
            return block_hashes([*self.prompt_token_ids, *output_token_ids], block_size, root)
        if block_size not in self.prompt_hashes:
            self.prompt_hashes[block_size] = block_hashes(self.prompt_token_ids, block_size, root)
        return self.prompt_hashes[block_size]


class Dispatcher:
    """
    Args:
        model: As of `WorkerEntry`: workers of other ones are left alone; empty: there are none.
        rng: Breaks ties among equal workers; its default is seeded by the system.
    """

    def __init__(
        self,
        *,
        ingress_id: str,
        secret: str,
        config: RouterConfig,
        health: HealthConfig,
        fetch_workers: Callable[[], Awaitable[Sequence[WorkerEntry]]],
        model: str = "",
        rng: Random | None = None,
    ) -> None:
        self._config = config
        self._counters = Counters()
        self.handovers = Handovers()
        self._closed = False
        self._links = Links(
            ingress_id=ingress_id,
            secret=secret,
            health=health,
            fetch_workers=fetch_workers,
            model=model,
            on_outputs=self._take_outputs,
            on_lost=self._lose_worker,
            on_change=self._workers_changed,
        )
        self._requests: Requests[OpenRequest] = Requests(
            table=self._links.table,
            config=config,
            start_timeout_s=health.start_timeout_s,
            rng=rng or Random(),
            submit=self._submit,
            abort=self._abort,
            deliver=self._deliver,
            ended=self._ended,
            alarm=self._alarm,
            block_hashes=OpenRequest.block_hashes,
            refusal=self._links.refusal,
        )

    async def start(self) -> None:
        """Returns when the worker table was asked for once; requests may wait for workers from then on."""
        await self._links.start()

    async def close(self) -> None:
        """Fails what still runs with UnavailableError, aborts it on the workers and closes the streams."""
        self._closed = True
        self._fail_all("the server is shutting down")
        await self._links.close()

    def leave(self, within_s: float) -> None:
        """This ingress is about to end, another takes its place: what runs goes on, for so long."""
        late = f"this ingress was replaced, and the answer not done within {within_s:g} s (http.drain_timeout_s)"
        asyncio.get_running_loop().call_later(within_s, self._fail_all, f"{late}; send the request again")

    def _fail_all(self, why: str) -> None:
        for active in self._requests:
            self._requests.fail(active, UnavailableError(why), time.monotonic())

    @property
    def max_model_len(self) -> int:
        """Of any worker that decodes; 0 until one has reported."""
        return self._links.table.max_model_len

    @property
    def max_request_tokens(self) -> int:
        """Prompt and output tokens that can ever fit a worker; 0 until one that decodes has reported."""
        return self._links.table.max_request_tokens

    @property
    def adapters(self) -> Mapping[str, str]:
        """LoRA, that requests may name -> hash of its content."""
        return self._links.table.adapters

    def states(self) -> list[WorkerView]:
        return self._links.table.views(time.monotonic())

    def check(self) -> None:
        """Raises: InternalError: a bug has stopped it from following its workers; another must take its place."""
        self._links.check()

    def tune(self, tuning: Tuning) -> None:
        """Its limits from now on, the config's where it has none."""
        for active in self._requests.tune(tuning.router(self._config)):
            asyncio.get_running_loop().call_soon(self._launch, active)

    def health(self) -> Health:
        return self._links.table.health()

    @property
    def counters(self) -> Counters:
        """A view of now; `finished` is shared, to be read only."""
        self._counters.num_queued = self._requests.admission.num_queued
        self._counters.num_running = self._requests.admission.num_running
        self._counters.num_shed = self._requests.admission.num_shed
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
            self._requests.reconcile(active, time.monotonic())

    def abort_choice(self, request_id: str, choice: int) -> None:
        """The caller has ended this choice, for example at a stop string; no output of it follows. Idempotent."""
        active = self._requests.get(request_id)
        if active is not None:
            active.lifecycle.abort_choice(choice)
            active.outbox = [output for output in active.outbox if output.choice != choice]
            self._requests.reconcile(active, time.monotonic())

    def _arrive(self, request: DispatchRequest) -> OpenRequest:
        if self._closed:
            raise UnavailableError("the server is shutting down")
        if not request.prompt_token_ids:
            raise InvalidRequestError("prompt: 0 tokens; give at least one", "prompt")
        lifecycle = Lifecycle(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling=request.sampling,
            deadline_s=request.deadline_s,
            max_retries=self._config.max_retries,
            grammar=request.grammar,
            adapter=request.adapter,
            track=request.track,
        )
        active = OpenRequest(
            lifecycle=lifecycle,
            num_prompt_tokens=len(request.prompt_token_ids),
            max_tokens=request.sampling.max_tokens,
            prompt_token_ids=request.prompt_token_ids,
            arrived_s=time.monotonic(),
        )
        self._requests.arrive(active, active.arrived_s)
        return active

    # News of the workers.

    def _take_outputs(self, link: WorkerLink, outputs: Iterable[TokenOutput]) -> None:
        began_s = time.monotonic()
        self._requests.take_outputs(link.key, outputs, began_s)
        self._counters.step_s.observe(time.monotonic() - began_s)

    def _lose_worker(self, link: WorkerLink, reason: str) -> None:
        self._counters.num_lost_workers += 1
        self._requests.lose_worker(link.key, reason, time.monotonic())

    def _workers_changed(self) -> None:
        self._requests.launch_unrouted(time.monotonic())

    # What requests ask.

    def _submit(self, active: OpenRequest, worker: WorkerKey, submit: Submit) -> None:
        link = self._links.up(worker)
        assert link is not None, f"{worker.worker_id} is in a pool and not connected"
        link.send(ToWorker(submit=submit))
        if not submit.attempt:
            self._counters.queue_s.observe(time.monotonic() - active.arrived_s)
        if submit.HasField("decode"):
            self.handovers.add(worker.worker_id, submit.decode.worker_id, len(submit.prompt_token_ids))

    def _abort(self, worker: WorkerKey, abort: Abort) -> None:
        link = self._links.up(worker)
        if link is not None:
            link.send(ToWorker(abort=abort))

    def _deliver(self, active: OpenRequest, outputs: list[TokenOutput]) -> None:
        active.outbox += outputs
        active.news.set()

    def _ended(self, active: OpenRequest, admitted: Sequence[OpenRequest]) -> None:
        active.news.set()
        self._counters.num_retries += active.lifecycle.num_retries
        for reason in active.lifecycle.finish_reasons():
            self._counters.finished[FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()] += 1
        for other in admitted:
            asyncio.get_running_loop().call_soon(self._launch, other)

    def _launch(self, active: OpenRequest) -> None:
        self._requests.launch(active, time.monotonic())

    def _alarm(self, active: OpenRequest, timer: Timer, at_s: float) -> Callable[[], object]:
        delay_s = max(at_s - time.monotonic(), 0.0)
        return asyncio.get_running_loop().call_later(delay_s, self._ring, active, timer).cancel

    def _ring(self, active: OpenRequest, timer: Timer) -> None:
        self._requests.ring(active, timer, time.monotonic())
