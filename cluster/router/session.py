"""One stream to one worker: opens it, keeps it open, tells when it is gone.

Invariant: `on_message` is called only between UP and the `on_down` that follows; each loss of a link that was UP is
told once, at once. What messages mean, and when a silent link is dropped, belongs to `cluster.router.links`.
"""

import asyncio
import enum
import logging
import time
from collections.abc import AsyncIterator, Callable

import grpc

from baton.errors import BatonError, UnauthenticatedError
from baton.v1.worker_pb2 import FromWorker, Hello, ToWorker
from baton.v1.worker_pb2_grpc import WorkerStub
from cluster.router.workers import WorkerEntry, WorkerKey

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0  # until the first state
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
CLOSE_TIMEOUT_S = 0.5
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel dials anew instead of sharing another's backoff
)


class _Outgoing(asyncio.Queue[ToWorker | None]):
    """What one stream is still to send; None ends it."""


class LinkState(enum.Enum):
    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"  # waits to connect again
    CLOSED = "closed"


class WorkerLink:
    """To one incarnation at one address. `on_refused`: the worker turned the secret down; `refusal` says so."""

    def __init__(
        self,
        *,
        entry: WorkerEntry,
        ingress_id: str,
        secret: str,
        on_message: Callable[["WorkerLink", FromWorker], None],
        on_down: Callable[["WorkerLink", str], None],
        on_refused: Callable[[], None],
    ) -> None:
        self.key = WorkerKey(entry.worker_id, entry.incarnation)
        self.address = entry.address
        self.state = LinkState.CONNECTING
        self.refusal: BatonError | None = None  # why the worker turned the last connection down
        self.last_message_s = 0.0  # time.monotonic(); 0: nothing yet on this stream
        self.report_interval_s = 0.0  # as wished on this stream; 0: nothing yet
        self._ingress_id = ingress_id
        self._secret = secret
        self._on_message = on_message
        self._on_down = on_down
        self._on_refused = on_refused
        self._outgoing = _Outgoing()
        self._stream: asyncio.Task[str] | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def send(self, message: ToWorker) -> None:
        """Never blocks. Only while UP; what is queued when the stream breaks is lost with it."""
        assert self.state is LinkState.UP, f"{self.key.worker_id}: sending on a link that is {self.state.value}"
        self._outgoing.put_nowait(message)

    def drop(self, reason: str) -> None:
        """Gives the stream up now; it is opened again later."""
        if self._stream is not None:
            self._stream.cancel()
        self._go_down(reason)

    async def close(self) -> None:
        """For good. The worker reads what was sent before and then ends the stream, or has it ended for it."""
        was_up = self.state is LinkState.UP
        self.state = LinkState.CLOSED
        if was_up and self._stream is not None:
            self._outgoing.put_nowait(None)
            await asyncio.wait([self._stream], timeout=CLOSE_TIMEOUT_S)
        tasks = [task for task in (self._keeper, self._stream) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep(self) -> None:
        """Connects again and again until closed: soon after a stream that was UP, else each time later."""
        backoff_s = FIRST_BACKOFF_S
        while self.state is not LinkState.CLOSED:
            self.state = LinkState.CONNECTING
            self._outgoing = _Outgoing()
            self._stream = asyncio.create_task(self._run_stream(self._outgoing))
            await asyncio.wait([self._stream])
            was_up = self.last_message_s > 0.0
            self._go_down(_outcome(self._stream, self.key))
            self.last_message_s = 0.0
            backoff_s = FIRST_BACKOFF_S if was_up else min(backoff_s * 2.0, MAX_BACKOFF_S)
            await asyncio.sleep(backoff_s)

    async def _run_stream(self, outgoing: _Outgoing) -> str:
        """One stream from its first message to its end; returns why it ended."""
        try:
            async with grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
                metadata = (("baton-secret", self._secret),)
                call = WorkerStub(channel).Session(self._requests(outgoing), metadata=metadata)
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    await call.code()
                    return f"closed the stream: {await call.details() or 'no reason given'}"
                self._come_up(message)
                while message is not grpc.aio.EOF:
                    self.last_message_s = time.monotonic()
                    self._on_message(self, message)
                    message = await call.read()
                return "closed the stream"
        except TimeoutError:
            return f"sent no state within {CONNECT_TIMEOUT_S:.0f} s"
        except grpc.aio.AioRpcError as error:
            self.refusal = None
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                self.refusal = UnauthenticatedError(f"worker {self.key.worker_id}: {error.details()}")
                self._on_refused()
            return f"{error.code().name}: {error.details()}"

    def _come_up(self, first: FromWorker) -> None:
        found = first.state.incarnation
        if found != self.key.incarnation:
            raise _WrongWorkerError(f"{self.address} is now incarnation {found!r}, not {self.key.incarnation!r}")
        self.state = LinkState.UP
        self.refusal = None
        self.report_interval_s = 0.0
        logger.info("worker up worker_id=%s address=%s", self.key.worker_id, self.address)

    async def _requests(self, outgoing: _Outgoing) -> AsyncIterator[ToWorker]:
        yield ToWorker(hello=Hello(ingress_id=self._ingress_id))
        while (message := await outgoing.get()) is not None:
            yield message

    def _go_down(self, reason: str) -> None:
        was_up = self.state is LinkState.UP
        if self.state is not LinkState.CLOSED:
            self.state = LinkState.DOWN
        if was_up:
            logger.warning("worker lost worker_id=%s reason=%s", self.key.worker_id, reason)
            self._on_down(self, reason)


class _WrongWorkerError(Exception):
    """Another process answers at the address."""


def _outcome(stream: asyncio.Task[str], key: WorkerKey) -> str:
    """Why the stream ended; a bug in a handler is logged with its traceback and costs the stream."""
    if stream.cancelled():
        return "dropped"
    error = stream.exception()
    if error is None:
        return stream.result()
    if not isinstance(error, _WrongWorkerError):
        logger.error("stream handler failed worker_id=%s", key.worker_id, exc_info=error)
    return str(error)
