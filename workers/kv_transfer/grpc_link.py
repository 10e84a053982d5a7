"""Links between workers in different processes: one gRPC stream per pair carries control, a transport the payloads.

`make_outbox` and `make_inbox` make the links of a worker, or of one lane of a gang (`gang_links`). Every call
carries the cluster's secret; checking it is the server's business.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Protocol, cast

import grpc
import grpc.aio

from baton.errors import ConfigError
from baton.v1.kv_pb2 import FromReceiver, FromSender, Handshake, HandshakeReply
from baton.v1.kv_pb2_grpc import KVTransferServicer
from baton.v1.worker_pb2 import DecodeRoute
from workers.kv_transfer.from_peer import FromPeer, Reply
from workers.kv_transfer.handshake import identify
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.kv_transfer.stream import LinkDownError
from workers.kv_transfer.to_peer import CONNECT_TIMEOUT_S, ToPeer
from workers.kv_transfer.transport import GrpcIn, GrpcOut, PayloadsIn, PayloadsOut
from workers.model.contract import KVStore, SharedKVStore
from workers.spec import WorkerSpec

_METHOD = "/baton.v1.KVTransfer/Link"
MAX_BACKLOG = 4  # messages that a link's thread may be behind its stream
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


def make_outbox(
    *,
    runner_store: KVStore,
    spec: WorkerSpec,
    incarnation: str,
    fingerprint: str,
    notify: Callable[[], None],
    lane: Lane | None = None,
) -> ThreadedOutbox:
    """The prefill side of a worker, or of one lane of a gang; links are made at the first offer to a route.

    Args:
        runner_store: Of a lane: the part that it moves.
        notify: May come from any thread.
    """
    on_device: dict[str, Any] = {}
    if _is_cuda(spec):
        from workers.kv_transfer.cuda import CudaFence, cuda_scope

        on_device = {"fence": CudaFence, "scope": cuda_scope}
    return ThreadedOutbox(
        store=runner_store,
        identity=identify(spec, runner_store, incarnation=incarnation, fingerprint=fingerprint, lane=lane),
        kv=spec.kv,
        dial=partial(GrpcWire, secret=spec.secret),
        make_payloads=partial(_payloads_out, spec, runner_store),
        notify=notify,
        **on_device,
    )


def make_inbox(
    *,
    runner_store: KVStore,
    spec: WorkerSpec,
    incarnation: str,
    fingerprint: str,
    notify: Callable[[], None],
    lane: Lane | None = None,
) -> tuple[ThreadedInbox, KVTransferServicer]:
    """The decode side of a worker, or of one lane of a gang, and the servicer to add to its grpc.aio server."""
    on_device: dict[str, Any] = {}
    if _is_cuda(spec):
        from workers.kv_transfer.cuda import CudaFence, cuda_flush, cuda_scope

        on_device = {"flush": cuda_flush, "fence": CudaFence, "scope": cuda_scope}
    inbox = ThreadedInbox(
        store=runner_store,
        identity=identify(spec, runner_store, incarnation=incarnation, fingerprint=fingerprint, lane=lane),
        kv=spec.kv,
        make_payloads=partial(_payloads_in, spec, runner_store),
        notify=notify,
        **on_device,
    )
    return inbox, LinkServicer(inbox)


def _is_cuda(spec: WorkerSpec) -> bool:
    return spec.device.startswith("cuda") and not spec.fake


def _timeout_s(spec: WorkerSpec) -> float:
    return max(1.0, min(spec.kv.lease_s, CONNECT_TIMEOUT_S))


def _staging(store: KVStore) -> Any:
    """Of one direction of one link: between the GPU and what gRPC's messages hold."""
    from workers.kv_transfer.cuda import cuda_begin, pinned
    from workers.kv_transfer.staging import Ring, Staging

    return Staging(store, Ring(pinned, cuda_begin))


def _begin(spec: WorkerSpec, name: str) -> Any:
    """How messages of the host are copied from and to the store's device; None: they are where the store is."""
    if name != "gloo" or not _is_cuda(spec):
        return None
    from workers.kv_transfer.cuda import cuda_begin

    return cuda_begin


def _payloads_out(spec: WorkerSpec, store: KVStore, name: str, route: DecodeRoute) -> PayloadsOut:
    if name == "grpc":
        return GrpcOut(store, _staging(store).read_all if _is_cuda(spec) else None)
    check_transport(spec, name)
    if name == "shm":
        from workers.kv_transfer.shm_link import ShmOut

        return ShmOut(cast(SharedKVStore, store))
    if name == "cuda_ipc":
        from workers.kv_transfer.cuda_ipc import CudaIpcOut

        return CudaIpcOut(store)
    from workers.kv_transfer.torch_link import TorchOut, check_available

    check_available(name)
    return TorchOut(name, store=store, host=spec.host, timeout_s=_timeout_s(spec), begin=_begin(spec, name))


def _payloads_in(spec: WorkerSpec, store: KVStore, handshake: Handshake) -> PayloadsIn:
    name = handshake.transport
    if name == "grpc":
        return GrpcIn(_staging(store).on_device if _is_cuda(spec) else None)
    check_transport(spec, name)
    if name == "shm":
        from workers.kv_transfer.shm_link import ShmIn

        return ShmIn(cast(SharedKVStore, store), handshake)
    if name == "cuda_ipc":
        from workers.kv_transfer.cuda_ipc import CudaIpcIn

        return CudaIpcIn(store)
    from workers.kv_transfer.torch_link import TorchIn, check_available

    check_available(name)
    return TorchIn(
        name,
        store=store,
        host=spec.host,
        timeout_s=_timeout_s(spec),
        handshake=handshake,
        begin=_begin(spec, name),
    )


def check_transport(spec: WorkerSpec, name: str) -> None:
    """Raises: ConfigError: this worker cannot move KV by `name`."""
    if name == "grpc":
        return
    if name not in ("shm", "gloo", "nccl", "cuda_ipc"):
        raise ConfigError(f"kv.transport: {name!r} is unknown; use auto, shm, nccl, gloo, grpc or cuda_ipc")
    if spec.fake:
        raise ConfigError(f"kv.transport: {name!r} moves tensors, which a fake model has not; set kv.transport: grpc")
    if name in ("nccl", "cuda_ipc") and not _is_cuda(spec):
        raise ConfigError(f"kv.transport: {name!r} needs device cuda, this worker's is {spec.device!r}; set it to auto")
    if name == "shm" and _is_cuda(spec):
        raise ConfigError(f"kv.transport: 'shm' needs device cpu, this worker's is {spec.device!r}; set it to auto")


def _write(message: FromSender | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class GrpcWire:
    """The sender's end of the stream. gRPC's threads take messages from `_waiting`; one thread reads replies."""

    def __init__(self, route: DecodeRoute, link: ToPeer, *, secret: str) -> None:
        self._link = link
        self._waiting: deque[FromSender | bytes] = deque()
        self._changed = threading.Condition()
        self._down_reason: str | None = None
        self._channel = grpc.insecure_channel(route.address, options=_CHANNEL_OPTIONS)
        open_link = self._channel.stream_stream(
            _METHOD, request_serializer=_write, response_deserializer=FromReceiver.FromString
        )
        self._call = open_link(self._messages(), metadata=(("baton-secret", secret),))
        threading.Thread(target=self._read, name=f"{link.name}-replies", daemon=True).start()

    def send(self, message: FromSender | bytes, timeout_s: float) -> None:
        with self._changed:
            has_room = self._changed.wait_for(
                lambda: self._down_reason is not None or len(self._waiting) < 2, timeout_s
            )
            if self._down_reason is not None:
                raise LinkDownError(self._down_reason)
            if not has_room:
                raise LinkDownError(f"the peer took nothing for {timeout_s:g} s")
            self._waiting.append(message)
            self._changed.notify_all()

    def close(self) -> None:
        self._end("closed")
        self._call.cancel()
        self._channel.close()

    def _messages(self) -> Iterator[FromSender | bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._down_reason is not None or bool(self._waiting))
                if self._down_reason is not None:
                    return
                message = self._waiting.popleft()
                self._changed.notify_all()
            yield message

    def _read(self) -> None:
        reason = "the peer closed the stream"
        try:
            for reply in self._call:
                self._link.on_reply(reply)
        except grpc.RpcError as fault:
            reason = f"{fault.code().name}: {fault.details()}"
        self._end(reason)
        self._link.on_down(reason)

    def _end(self, reason: str) -> None:
        with self._changed:
            self._down_reason = self._down_reason or reason
            self._changed.notify_all()


class Accepting(Protocol):
    """Who takes links in: an inbox, or all those of a rank (`rank_lanes`)."""

    def accept(self, handshake: Handshake, reply: Reply) -> tuple[HandshakeReply, FromPeer | None]: ...


class LinkServicer(KVTransferServicer):
    """The receiver's end of every stream, on the worker's own loop."""

    def __init__(self, inbox: Accepting) -> None:
        self._inbox = inbox

    async def Link(self, requests: AsyncIterator[FromSender], context: Any) -> AsyncIterator[FromReceiver]:
        loop = asyncio.get_running_loop()
        replies: asyncio.Queue[FromReceiver | None] = asyncio.Queue()

        def reply(message: FromReceiver | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(replies.put_nowait, message)

        link = None
        while link is None:
            first = await anext(aiter(requests), None)
            if first is None or first.WhichOneof("message") != "handshake":
                return
            told, link = self._inbox.accept(first.handshake, reply)
            yield FromReceiver(handshake=told)
        reader = asyncio.create_task(_feed(link, requests, loop))
        try:
            while (message := await replies.get()) is not None:
                yield message
        finally:
            reader.cancel()
            link.down("the peer closed the stream")


async def _feed(link: FromPeer, requests: AsyncIterator[FromSender], loop: asyncio.AbstractEventLoop) -> None:
    """Hands messages to the link's thread, at most MAX_BACKLOG ahead of it; then gRPC holds the sender back."""
    room = asyncio.Event()

    def handled() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(room.set)

    try:
        async for message in requests:
            while link.backlog >= MAX_BACKLOG:
                room.clear()
                await room.wait()
            link.feed(message, handled)
    finally:
        link.down("the peer closed the stream")
