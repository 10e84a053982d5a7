"""The leader's gRPC service: one stream per ingress carries requests in, and one message per engine step out.

Owns the sessions. Runs on the worker's asyncio loop; the engine has a thread of its own and calls `on_step` from it.
Invariant: of the engine's state only the frozen load reports are read here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import grpc

from baton.v1 import worker_pb2, worker_pb2_grpc
from workers.engine.cache_news import CacheNews
from workers.engine.engine import StepReport
from workers.engine.load_report import LoadReport, WorkerStates
from workers.model.contract import ModelRunner
from workers.sessions import HEARTBEAT_S, MAX_QUEUED_MESSAGES, IngressSession
from workers.spec import Role, WorkerSpec
from workers.speculative.who_drafts import who_drafts

logger = logging.getLogger(__name__)


class Serving(Protocol):
    """An engine, as its service sees it. `load` is read at the start; all else may be called from any thread."""

    runner: ModelRunner
    load: LoadReport

    def submit(self, ingress_id: str, submit: worker_pb2.Submit) -> None: ...

    def abort(self, abort: worker_pb2.Abort) -> None: ...

    def disconnect(self, ingress_id: str) -> None:
        """The ingress is gone."""
        ...


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """
    Args:
        fail: Called once this service is of no use any more, with what broke it: a bug. Must end the worker, whose
            tokens or load reports would be missed by nobody else.
    """

    def __init__(
        self, *, engine: Serving, spec: WorkerSpec, incarnation: str, fail: Callable[[BaseException], None]
    ) -> None:
        runner = engine.runner
        self._engine = engine
        self._fail = fail
        self._load = engine.load
        self._states = WorkerStates(
            worker_id=spec.worker_id,
            incarnation=incarnation,
            fingerprint=runner.fingerprint,
            block_size=spec.engine.block_size,
            num_blocks=runner.num_blocks,
            max_model_len=runner.max_model_len,
            max_sequences=spec.engine.max_sequences,
            drafters=who_drafts(spec),
            served_name=spec.served_name,
            attention=getattr(runner, "attention_name", ""),  # of runners on a GPU
        )
        self._sessions: dict[str, IngressSession] = {}
        self._cached: dict[int, None] = {}  # hashes; a dict keeps their order
        self._wake = asyncio.Event()  # a report may be due earlier than the reporter thinks
        self._loop = asyncio.get_running_loop()
        self._reporter = asyncio.create_task(self._report_states())
        self._reporter.add_done_callback(self._reporter_ended)

    def say_ranks(self, addresses: Sequence[str]) -> None:
        """Where the ranks of this gang take KV, the leader first; before anybody asks."""
        self._states.say_ranks(addresses)

    def say_metrics(self, address: str) -> None:
        """Where this worker tells metrics; before anybody asks, too."""
        self._states.say_metrics(address)

    def on_step(self, report: StepReport) -> None:
        """From the engine's thread."""
        self._loop.call_soon_threadsafe(self._take, report)

    @property
    def role(self) -> Role:
        """That was told last."""
        return self._load.role

    @property
    def is_drained(self) -> bool:
        """Takes nothing new, and all that it took has ended and is on its way."""
        return self._load.draining and self._load.is_idle

    async def close(self) -> None:
        self._reporter.cancel()
        for session in self._sessions.values():
            session.messages.put_nowait(None)
        with contextlib.suppress(asyncio.CancelledError):
            await self._reporter

    async def Session(
        self, request_iterator: AsyncIterator[worker_pb2.ToWorker], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[worker_pb2.FromWorker]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.hello.ingress_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello with ingress_id")
            return
        if (before := self._sessions.get(first.hello.ingress_id)) is not None:  # it came back before we saw it go
            before.messages.put_nowait(None)
            self._engine.disconnect(first.hello.ingress_id)
        session = IngressSession(ingress_id=first.hello.ingress_id, cache=CacheNews(self._cached))
        self._sessions[session.ingress_id] = session
        reader = asyncio.create_task(self._read(session, request_iterator))
        logger.info("ingress connected ingress_id=%s", session.ingress_id)
        try:
            yield worker_pb2.FromWorker(state=session.report(self.state(), time.monotonic()))
            self._wake.set()
            while (message := await session.messages.get()) is not None:
                yield message
        finally:
            reader.cancel()
            if self._sessions.get(session.ingress_id) is session:
                del self._sessions[session.ingress_id]
                self._engine.disconnect(session.ingress_id)
            logger.info("ingress gone ingress_id=%s", session.ingress_id)

    async def GetState(
        self, request: worker_pb2.GetStateRequest, context: grpc.aio.ServicerContext
    ) -> worker_pb2.WorkerState:
        return self.state()

    async def _read(self, session: IngressSession, messages: AsyncIterator[worker_pb2.ToWorker]) -> None:
        try:
            async for message in messages:
                kind = message.WhichOneof("message")
                if kind == "submit":
                    self._engine.submit(session.ingress_id, message.submit)
                elif kind == "abort":
                    self._engine.abort(message.abort)
                elif kind == "reports":
                    self._wish(session, message.reports)
        finally:
            session.messages.put_nowait(None)

    def _reporter_ended(self, reporter: asyncio.Task[None]) -> None:
        if not reporter.cancelled():
            self._fail(reporter.exception() or RuntimeError("the reporter returned"))

    def _take(self, report: StepReport) -> None:
        try:
            self._deliver(report)
        except Exception as error:  # the loop would log it and go on, without these tokens
            self._fail(error)

    def _wish(self, session: IngressSession, wish: worker_pb2.ReportWish) -> None:
        session.wish(wish)
        if wish.snapshot:
            session.cache.restart(self._cached)
            session.has_changed = True
            session.hurry()
        self._wake.set()

    def _deliver(self, report: StepReport) -> None:
        self._note(report)
        now_s = time.monotonic()
        for ingress_id, outputs in report.outputs.items():
            session = self._sessions.get(ingress_id)
            if session is None or session.messages.qsize() > MAX_QUEUED_MESSAGES:
                self._engine.disconnect(ingress_id)
                continue
            session.send(outputs, self._load_state, now_s)

    def _note(self, report: StepReport) -> None:
        """Every session has a load report to send."""
        has_new_role = report.load.role is not self._load.role
        is_urgent = has_new_role or (report.load.draining and not self._load.draining)
        if report.load.measures is not self._load.measures:
            for session in self._sessions.values():
                session.measures = report.load.measures
        self._load = report.load
        for block_hash in report.removed_hashes:
            self._cached.pop(block_hash, None)
        self._cached.update(dict.fromkeys(report.added_hashes))
        for session in self._sessions.values():
            session.cache.note(report.added_hashes, report.removed_hashes)
            if is_urgent:
                session.hurry()
            if is_urgent or not session.has_changed:
                session.has_changed = True
                self._wake.set()
            if has_new_role:  # before the outputs: what was given back must not be sent here again
                session.tell(self.state, time.monotonic(), is_waiting=False)

    async def _report_states(self) -> None:
        while True:
            self._wake.clear()
            now_s = time.monotonic()
            is_waiting = self._load.waiting_since_s is not None
            for session in self._sessions.values():
                if session.due_s <= now_s:
                    session.tell(self._load_state, now_s, is_waiting=is_waiting)
            due_s = min((session.due_s for session in self._sessions.values()), default=now_s + HEARTBEAT_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(due_s - now_s, 0.0))

    def state(self) -> worker_pb2.WorkerState:
        """A load report without cache events."""
        state = self._load_state()
        if self._load.measures is not None:
            state.measures.CopyFrom(self._load.measures)
        return state

    def _load_state(self) -> worker_pb2.WorkerState:
        """Of a stream, whose session adds the measures where they are new."""
        return self._states.of(self._load, time.monotonic())
