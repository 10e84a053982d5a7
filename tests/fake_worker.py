"""Workers without an engine: the real wire, a scripted inside. For tests of everything above `baton.v1.Worker`.

Tokens are a function of (prompt, choice, position), so any worker goes on where another stopped. Prefill hands over
to decode by a call in the process instead of a KV link; the messages that an ingress sees are the same.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from baton.v1.inference_pb2 import (
    FINISH_REASON_ERROR,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    FinishReason,
    TokenLogprob,
    TokenLogprobs,
)
from baton.v1.worker_pb2 import (
    ROLE_DECODE,
    ROLE_MIXED,
    ROLE_PREFILL,
    Abort,
    Adapter,
    FromWorker,
    GetStateRequest,
    ReportWish,
    StepOutputs,
    Submit,
    TokenOutput,
    ToWorker,
    WorkerError,
    WorkerState,
)
from baton.v1.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from cluster.router.workers import WorkerEntry
from workers.engine.cache_news import CacheNews
from workers.spec import Role

SECRET = "fake-secret"
VOCAB_SIZE = 4096
_ROLES = {Role.PREFILL: ROLE_PREFILL, Role.DECODE: ROLE_DECODE, Role.MIXED: ROLE_MIXED}


def fake_token(prompt: Sequence[int], choice: int, position: int) -> int:
    """Output token number `position` of a choice."""
    return (sum(prompt) * 31 + len(prompt) * 17 + choice * 101 + position * 7) % VOCAB_SIZE


def fake_tokens(prompt: Sequence[int], choice: int, count: int) -> list[int]:
    """What a choice of `count` output tokens must read."""
    return [fake_token(prompt, choice, position) for position in range(count)]


@dataclass(slots=True, kw_only=True)
class Script:
    """How a fake worker behaves; may be changed while it runs."""

    token: Callable[[Sequence[int], int, int], int] = fake_token
    step_s: float = 0.002
    prefill_s: float = 0.0  # to read any prompt
    first_token_delay_s: float = 0.0  # between the hand-over and prefill's word to the ingress
    stalled: bool = False  # alive, and sends nothing
    wedged: bool = False  # reports, and finishes no step
    refusal: WorkerError | None = None  # the answer to every Submit
    preempt_after: int | None = None  # tokens of an attempt; decode then asks for a new one, once per request
    die_after_tokens: int | None = None  # in all, sent by this worker
    withhold_finish: bool = False  # stops at max_tokens without a word


@dataclass(slots=True, eq=False)
class _Sequence:
    ingress_id: str
    submit: Submit
    choice: int
    output: list[int]
    num_started: int  # tokens when this worker took over
    first_output: bool = True

    @property
    def key(self) -> tuple[str, int]:
        return (self.submit.request_id, self.choice)


@dataclass(slots=True, eq=False)
class FakeWorker(WorkerServicer):
    """`peers` maps worker ids to the fakes that prefill may hand over to."""

    worker_id: str
    role: Role
    peers: dict[str, "FakeWorker"] = field(default_factory=dict)
    script: Script = field(default_factory=Script)
    secret: str = SECRET
    draining: bool = False
    model: str = ""
    num_blocks: int = 4096
    block_size: int = 16
    max_model_len: int = 8192
    max_sequences: int = 256
    incarnation: str = field(default_factory=lambda: uuid.uuid4().hex)
    submits: list[Submit] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)
    wishes: list[ReportWish] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)  # name -> hash
    cached_hashes: list[int] = field(default_factory=list)  # told with a session's first state
    num_sent_tokens: int = 0
    _address: str = ""
    _server: grpc.aio.Server | None = None
    _sessions: dict[str, "asyncio.Queue[FromWorker | None]"] = field(default_factory=dict)
    _news: dict[str, CacheNews] = field(default_factory=dict)
    _running: dict[tuple[str, int], _Sequence] = field(default_factory=dict)
    _preempted: set[str] = field(default_factory=set)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _progress_s: float = 0.0

    @property
    def entry(self) -> WorkerEntry:
        return WorkerEntry(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            role=self.role,
            address=self._address,
            draining=self.draining,
            model=self.model,
        )

    @property
    def num_running(self) -> int:
        return len(self._running)

    async def start(self) -> None:
        self._server = grpc.aio.server()
        add_WorkerServicer_to_server(self, self._server)
        self._address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self.peers[self.worker_id] = self
        self._spawn(self._step_forever())
        self._spawn(self._report_forever())

    async def die(self) -> None:
        """Ends like a killed process: streams break, nothing more is said."""
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        self._sessions.clear()
        self._running.clear()
        if self.peers.get(self.worker_id) is self:
            del self.peers[self.worker_id]
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def Session(
        self, requests: AsyncIterator[ToWorker], context: "grpc.aio.ServicerContext[ToWorker, FromWorker]"
    ) -> AsyncIterator[FromWorker]:
        if ("baton-secret", self.secret) not in [(key, value) for key, value in context.invocation_metadata()]:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "baton-secret: wrong or missing")
        hello = await anext(aiter(requests))
        ingress_id = hello.hello.ingress_id
        queue: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._sessions[ingress_id] = queue
        self._news[ingress_id] = CacheNews(self.cached_hashes)
        self._report(ingress_id)
        reader = self._spawn(self._read(ingress_id, requests, queue))
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            reader.cancel()
            if self._sessions.get(ingress_id) is queue:
                del self._sessions[ingress_id]
                self._running = {k: s for k, s in self._running.items() if s.ingress_id != ingress_id}

    async def GetState(
        self, request: GetStateRequest, context: "grpc.aio.ServicerContext[GetStateRequest, WorkerState]"
    ) -> WorkerState:
        return self.state()

    def state(self) -> WorkerState:
        pending_s = time.monotonic() - self._progress_s if self._running and self.script.wedged else 0.0
        used = sum(len(s.submit.prompt_token_ids) + len(s.output) for s in self._running.values()) // self.block_size
        return WorkerState(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            role=_ROLES[self.role],
            draining=self.draining,
            fingerprint="fake",
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            num_blocks=self.num_blocks,
            num_free_blocks=max(self.num_blocks - used, 0),
            num_running=len(self._running),
            max_sequences=self.max_sequences,
            since_progress_s=pending_s,
            adapters=[Adapter(name=name, hash=of) for name, of in self.adapters.items()],
        )

    def report(self) -> None:
        """Sends a load report to every ingress now."""
        for ingress_id in self._sessions:
            self._report(ingress_id)

    def lose_report(self) -> None:
        """The next one is not sent to anyone, though it is numbered."""
        for news in self._news.values():
            news.fill(WorkerState())

    def _report(self, ingress_id: str) -> None:
        state = self.state()
        self._news[ingress_id].fill(state)
        self._tell(ingress_id, FromWorker(state=state))

    def take_over(self, ingress_id: str, submit: Submit, first: Sequence[tuple[int, int]]) -> None:
        """Decode side of a hand-over: goes on after the first tokens, (choice, token id) each."""
        inherited = {start.choice: list(start.output_token_ids) for start in submit.choices}
        for choice, token in first:
            output = [*inherited[choice], token]
            self._join(_Sequence(ingress_id, submit, choice, output, len(output)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(
        self, ingress_id: str, requests: AsyncIterator[ToWorker], queue: "asyncio.Queue[FromWorker | None]"
    ) -> None:
        async for message in requests:
            if message.HasField("submit"):
                self.submits.append(message.submit)
                self._spawn(self._admit(ingress_id, message.submit))
            elif message.HasField("abort"):
                self.aborts.append(message.abort)
                self._abort(message.abort)
            elif message.HasField("reports"):
                self.wishes.append(message.reports)
                if message.reports.snapshot:
                    self._news[ingress_id].restart(self.cached_hashes)
        queue.put_nowait(None)  # the ingress has closed its side

    async def _admit(self, ingress_id: str, submit: Submit) -> None:
        if self.script.refusal is not None:
            self._send(ingress_id, [self._error(submit, start.choice, self.script.refusal) for start in submit.choices])
            return
        sequences = [
            _Sequence(ingress_id, submit, start.choice, list(start.output_token_ids), len(start.output_token_ids))
            for start in submit.choices
        ]
        for sequence in sequences:
            self._join(sequence)
        await asyncio.sleep(self.script.prefill_s)
        if submit.HasField("decode"):
            alive = [one for one in sequences if self._running.get(one.key) is one]
            await self._hand_over(ingress_id, submit, alive)

    async def _hand_over(self, ingress_id: str, submit: Submit, sequences: list[_Sequence]) -> None:
        outputs, going_on = [], []
        for sequence in sequences:
            self._running.pop(sequence.key)
            output = self._next(sequence)
            outputs.append(output)
            if not output.finish_reason:
                going_on.append((sequence.choice, output.token_ids[0]))
        decode = self.peers.get(submit.decode.worker_id)
        if decode is None or decode.incarnation != submit.decode.incarnation:
            error = WorkerError(code="unavailable", message="the decode worker is gone", retryable=True)
            self._send(ingress_id, [self._error(submit, sequence.choice, error) for sequence in sequences])
            return
        decode.take_over(ingress_id, submit, going_on)
        if self.script.first_token_delay_s:
            await asyncio.sleep(self.script.first_token_delay_s)
        self._send(ingress_id, outputs)

    def _join(self, sequence: _Sequence) -> None:
        old = self._running.get(sequence.key)
        if old is None or old.submit.attempt < sequence.submit.attempt:
            self._running[sequence.key] = sequence

    def _abort(self, abort: Abort) -> None:
        for (request_id, choice), sequence in list(self._running.items()):
            hit = not abort.choices or choice in abort.choices
            if request_id == abort.request_id and hit and sequence.submit.attempt <= abort.attempt:
                del self._running[request_id, choice]

    async def _step_forever(self) -> None:
        while True:
            await asyncio.sleep(self.script.step_s)
            if self.script.stalled or self.script.wedged:
                continue
            self._progress_s = time.monotonic()
            self._step()
            limit = self.script.die_after_tokens
            if limit is not None and self.num_sent_tokens >= limit:
                await self.die()
                return

    def _step(self) -> None:
        by_ingress: dict[str, list[TokenOutput]] = {}
        for sequence in list(self._running.values()):
            reads_for_decode = sequence.submit.HasField("decode") and sequence.submit.decode.worker_id != self.worker_id
            done = self.script.withhold_finish and len(sequence.output) >= sequence.submit.sampling.max_tokens
            if reads_for_decode or done:
                continue
            output = self._next(sequence)
            if output.finish_reason:
                del self._running[sequence.key]
            by_ingress.setdefault(sequence.ingress_id, []).append(output)
        for ingress_id, outputs in by_ingress.items():
            self._send(ingress_id, outputs)

    def _next(self, sequence: _Sequence) -> TokenOutput:
        """The next token of a sequence, or its preemption."""
        submit, index = sequence.submit, len(sequence.output)
        limit = self.script.preempt_after
        if limit is not None and index - sequence.num_started >= limit and submit.request_id not in self._preempted:
            self._preempted.add(submit.request_id)
            error = WorkerError(code="preempted", message="out of blocks", retryable=True)
            return self._error(submit, sequence.choice, error, index)
        token = self.script.token(submit.prompt_token_ids, sequence.choice, index)
        sequence.output.append(token)
        output = TokenOutput(
            request_id=submit.request_id,
            choice=sequence.choice,
            attempt=submit.attempt,
            index=index,
            token_ids=[token],
            finish_reason=self._finish_reason(submit, token, len(sequence.output)),
        )
        if sequence.first_output:
            output.num_cached_tokens = min(4, len(submit.prompt_token_ids))
            sequence.first_output = False
        if submit.sampling.HasField("logprobs"):
            output.logprobs.append(TokenLogprobs(sampled=TokenLogprob(token_id=token, logprob=-float(index))))
        return output

    def _finish_reason(self, submit: Submit, token: int, count: int) -> FinishReason:
        if self.script.withhold_finish:
            return FINISH_REASON_UNSPECIFIED
        if token in submit.sampling.stop_token_ids:
            return FINISH_REASON_STOP
        return FINISH_REASON_LENGTH if count >= submit.sampling.max_tokens else FINISH_REASON_UNSPECIFIED

    def _error(self, submit: Submit, choice: int, error: WorkerError, index: int = 0) -> TokenOutput:
        return TokenOutput(
            request_id=submit.request_id,
            choice=choice,
            attempt=submit.attempt,
            index=index,
            finish_reason=FINISH_REASON_ERROR,
            error=error,
        )

    def _send(self, ingress_id: str, outputs: list[TokenOutput]) -> None:
        self.num_sent_tokens += sum(len(output.token_ids) for output in outputs)
        self._tell(ingress_id, FromWorker(outputs=StepOutputs(outputs=outputs)))

    def _tell(self, ingress_id: str, message: FromWorker) -> None:
        queue = self._sessions.get(ingress_id)
        if queue is not None and not self.script.stalled:
            queue.put_nowait(message)

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.report()


class FakeCluster:
    """A few fake workers and the table a controller would show of them."""

    def __init__(self, *, prefill: int = 0, decode: int = 0, mixed: int = 0, script: Script | None = None) -> None:
        self.peers: dict[str, FakeWorker] = {}
        self.workers: list[FakeWorker] = []  # rows of the table
        self.started: list[FakeWorker] = []
        self.controller_away = False
        self._numbers = itertools.count()
        self._counts = {Role.PREFILL: prefill, Role.DECODE: decode, Role.MIXED: mixed}
        self._script = script or Script()

    async def __aenter__(self) -> "FakeCluster":
        for role, count in self._counts.items():
            for _ in range(count):
                await self.add(role)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for worker in self.started:
            await worker.die()

    async def add(self, role: Role, **options: Any) -> FakeWorker:
        """Starts one more; its options are FakeWorker's."""
        script = replace(self._script)  # its own copy
        worker = FakeWorker(f"{role.value}-{next(self._numbers)}", role, self.peers, script, **options)
        await worker.start()
        self.workers.append(worker)
        self.started.append(worker)
        return worker

    def of(self, role: Role) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.role is role]

    def forget(self, worker: FakeWorker) -> None:
        """Takes the worker's row out of the table; it runs on until it dies."""
        self.workers.remove(worker)

    async def fetch(self) -> list[WorkerEntry]:
        """For `Dispatcher(fetch_workers=...)`."""
        if self.controller_away:
            raise ConnectionError("the controller is away")
        return [worker.entry for worker in self.workers]
