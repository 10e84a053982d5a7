"""The seam between a link's bookkeeping and what moves its payloads.

One object per link and side. The sender fills a `buffer` with the payloads of one message, calls `pack`, puts the
announcement on the control stream, then calls `flush`; the receiver calls `expect` as early as it can and then `unpack`
for each announcement, both in the same order. Every announced range is sent, so that a receive is never cancelled:
what nobody wants any more is received and dropped.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from baton.v1.kv_pb2 import FromSender, Range, Ranges
from workers.kv_transfer.wire import cut, write_ranges
from workers.model.contract import KVStore


class TransportError(Exception):
    """The data path is gone; the whole link ends."""


class SenderTransport(Protocol):
    name: str
    max_message_bytes: int
    store_address: str  # told in the handshake; "" where there is no store
    store_prefix: str

    def connect(self) -> None:
        """After the peer agreed; blocks until the data path stands. Raises: TransportError."""
        ...

    def buffer(self, nbytes: int) -> Any:
        """Where to put the payloads of the next message, one after the other: `nbytes` or more of the store's kind."""
        ...

    def pack(self, ranges: Sequence[Range], sizes: Sequence[int]) -> FromSender | bytes:
        """The announcement, or how it is written, of what was put into the last `buffer`, in payloads of `sizes`
        bytes. The buffer belongs to the transport from now on."""
        ...

    def flush(self) -> None:
        """Sends what was announced; blocks while the peer is slow. Raises: TransportError."""
        ...

    def abort(self) -> None:
        """From any thread, when the peer is known to be gone: frees a blocked call where the library can."""
        ...

    def close(self) -> None: ...


class ReceiverTransport(Protocol):
    name: str

    def connect(self) -> None: ...

    def expect(self, message: Ranges) -> None:
        """The announcement has come: begin to receive its payloads. Raises: TransportError."""
        ...

    def unpack(self, message: Ranges) -> Iterable[Any]:
        """One payload per range, as the store writes it, valid until the next one is taken. Raises: TransportError."""
        ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class _Plain:
    """What transports without a connection of their own share."""

    store_address = ""
    store_prefix = ""

    def connect(self) -> None:
        """Nothing to connect: the control stream carries all."""

    def flush(self) -> None:
        """Nothing is left behind by `pack`."""

    def expect(self, message: Ranges) -> None:
        """The payloads came with the announcement."""

    def abort(self) -> None:
        """Nothing blocks here."""

    def close(self) -> None:
        """Nothing is held."""


class GrpcSender(_Plain):
    """Payload bytes inside the announcement; gRPC's flow control is the back-pressure."""

    name = "grpc"
    max_message_bytes = 2 << 20  # gRPC's default limit for a message is 4 MiB

    def __init__(self, store: KVStore) -> None:
        self._store = store
        self._buffer: Any = None

    def buffer(self, nbytes: int) -> Any:
        if self._buffer is None or len(self._buffer) < nbytes:
            self._buffer = self._store.empty_payload(max(nbytes, self.max_message_bytes))
        return self._buffer

    def pack(self, ranges: Sequence[Range], sizes: Sequence[int]) -> FromSender | bytes:
        whole = to_buffer(self._buffer[: sum(sizes)])
        return write_ranges(ranges, [whole[start:end] for start, end in cut(sizes)])


class GrpcReceiver(_Plain):
    name = "grpc"

    def unpack(self, message: Ranges) -> Iterable[Any]:
        return (range_.payload for range_ in message.ranges)


def to_buffer(payload: Any) -> memoryview:
    """Of a flat uint8 tensor on any device, or of anything with a buffer."""
    return memoryview(payload if isinstance(payload, bytes | bytearray | memoryview) else payload.cpu().numpy())


class LocalPipe:
    """Payloads of an in-process pair, by reference."""

    def __init__(self) -> None:
        self.payloads: deque[Any] = deque()


class LocalSender(_Plain):
    name = "inproc"
    max_message_bytes = 4 << 20

    def __init__(self, pipe: LocalPipe, store: KVStore) -> None:
        self._pipe = pipe
        self._store = store
        self._buffer: Any = None

    def buffer(self, nbytes: int) -> Any:
        self._buffer = self._store.empty_payload(nbytes)
        return self._buffer

    def pack(self, ranges: Sequence[Range], sizes: Sequence[int]) -> FromSender:
        self._pipe.payloads.extend(self._buffer[start:end] for start, end in cut(sizes))
        return FromSender(ranges=Ranges(ranges=ranges))


class LocalReceiver(_Plain):
    name = "inproc"

    def __init__(self, pipe: LocalPipe) -> None:
        self._pipe = pipe

    def unpack(self, message: Ranges) -> Iterable[Any]:
        return (self._pipe.payloads.popleft() for _ in message.ranges)
