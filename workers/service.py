"""The leader's gRPC service: one stream per ingress carries requests in, and one message per engine step out.

Owns the sessions. Runs on the worker's asyncio loop; the engine has a thread of its own and calls `on_step` from it.
Invariant: of the engine's state only the frozen load reports are read here.
"""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from baton.v1 import worker_pb2, worker_pb2_grpc
from workers.engine.engine import Engine, StepReport
from workers.engine.load_report import WorkerStates
from workers.spec import WorkerSpec

logger = logging.getLogger(__name__)
MIN_REPORT_S = 0.05
MAX_REPORT_S = 0.5
MAX_QUEUED_MESSAGES = 65_536  # of one ingress that does not read: then it is cut off
SECRET_METADATA = "baton-secret"


class SecretInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses every call whose metadata does not carry the cluster's secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

        async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"metadata {SECRET_METADATA}: missing or wrong")

        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        given = dict(handler_call_details.invocation_metadata or ()).get(SECRET_METADATA, "")
        if not hmac.compare_digest(str(given).encode(), self._secret):
            return self._refusal
        return await continuation(handler_call_details)


@dataclass(slots=True, eq=False)
class IngressSession:
    """One ingress replica's stream."""

    ingress_id: str
    messages: asyncio.Queue[worker_pb2.FromWorker | None] = field(default_factory=asyncio.Queue)
    added_hashes: set[int] = field(default_factory=set)  # since its last state
    removed_hashes: set[int] = field(default_factory=set)


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """
    Args:
        fail: Called once this service is of no use any more, with what broke it: a bug. Must end the worker, whose
            tokens or load reports would be missed by nobody else.
    """

    def __init__(
        self, *, engine: Engine, spec: WorkerSpec, incarnation: str, fail: Callable[[BaseException], None]
    ) -> None:
        runner = engine.runner
        self._engine = engine
        self._fail = fail
        self._load = engine.load
        self._states = WorkerStates(
            worker_id=spec.worker_id,
            incarnation=incarnation,
            role=spec.role,
            fingerprint=runner.fingerprint,
            block_size=spec.engine.block_size,
            num_blocks=runner.num_blocks,
            max_model_len=runner.max_model_len,
            max_sequences=spec.engine.max_sequences,
        )
        self._sessions: dict[str, IngressSession] = {}
        self._cached_hashes: set[int] = set()
        self._dirty = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reporter = asyncio.create_task(self._report_states())
        self._reporter.add_done_callback(self._reporter_ended)

    def on_step(self, report: StepReport) -> None:
        """From the engine's thread."""
        self._loop.call_soon_threadsafe(self._take, report)

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
        if first.hello.ingress_id in self._sessions:  # it came back before we saw it go
            self._engine.disconnect(first.hello.ingress_id)
        session = IngressSession(first.hello.ingress_id, added_hashes=set(self._cached_hashes))
        self._sessions[session.ingress_id] = session
        reader = asyncio.create_task(self._read(session, request_iterator))
        logger.info("ingress connected ingress_id=%s", session.ingress_id)
        try:
            yield worker_pb2.FromWorker(state=self._state_for(session))
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

    def _deliver(self, report: StepReport) -> None:
        self._load = report.load
        for ingress_id, outputs in report.outputs.items():
            session = self._sessions.get(ingress_id)
            if session is None or session.messages.qsize() > MAX_QUEUED_MESSAGES:
                self._engine.disconnect(ingress_id)
                continue
            session.messages.put_nowait(worker_pb2.FromWorker(outputs=worker_pb2.StepOutputs(outputs=outputs)))
        if report.added_hashes or report.removed_hashes:
            self._cached_hashes.difference_update(report.removed_hashes)
            self._cached_hashes.update(report.added_hashes)
            for session in self._sessions.values():
                session.added_hashes.difference_update(report.removed_hashes)
                session.removed_hashes.difference_update(report.added_hashes)
                session.removed_hashes.update(report.removed_hashes)
                session.added_hashes.update(report.added_hashes)
        self._dirty.set()

    async def _report_states(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), MAX_REPORT_S)
            self._dirty.clear()
            for session in self._sessions.values():
                session.messages.put_nowait(worker_pb2.FromWorker(state=self._state_for(session)))
            await asyncio.sleep(MIN_REPORT_S)

    def _state_for(self, session: IngressSession) -> worker_pb2.WorkerState:
        state = self.state()
        state.added_block_hashes.extend(session.added_hashes)
        state.removed_block_hashes.extend(session.removed_hashes)
        session.added_hashes.clear()
        session.removed_hashes.clear()
        return state

    def state(self) -> worker_pb2.WorkerState:
        """A load report without cache events."""
        return self._states.of(self._load, time.monotonic())
