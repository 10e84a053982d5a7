"""The seam between a link's bookkeeping and what moves its payloads.

One object per link and side. The sender calls `pack`, puts the announcement on the control stream, then calls `flush`;
the receiver calls `expect` as early as it can and then `unpack` for each announcement, both in the same order. Every
announced range is sent, so that a receive is never cancelled: what nobody wants any more is received and dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from baton.v1.kv_pb2 import FromSender, Range, Ranges
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.wire import cut, open_message, wire_range
from workers.model.contract import KVStore


class TransportError(Exception):
    """The data path is gone; the whole link ends."""


class PayloadsOut(Protocol):
    name: str
    max_message_bytes: int
    min_push_bytes: int  # while a prompt is being computed, less waits for more
    store_address: str  # told in the handshake: where the payloads' own path begins; "" where there is none
    store_prefix: str

    def connect(self) -> None:
        """After the peer agreed; blocks until the data path stands. Raises: TransportError."""
        ...

    def pack(self, spans: Sequence[Span]) -> FromSender | bytes:
        """Reads the spans' blocks; the announcement, or how it is written."""
        ...

    def flush(self) -> None:
        """Sends what was announced; blocks while the peer is slow. Raises: TransportError."""
        ...

    def seal(self, key: TransferKey) -> int:
        """All of `key` is announced and its blocks stay as they are until `unseal`; told to the receiver."""
        ...

    def unseal(self, key: TransferKey | None) -> None:
        """The blocks of `key` (None: of all keys) may be reused from now on."""
        ...

    def abort(self) -> None:
        """From any thread, when the peer is known to be gone: frees a blocked call where the library can."""
        ...

    def close(self) -> None: ...


class PayloadsIn(Protocol):
    name: str

    def connect(self) -> None: ...

    def expect(self, message: Ranges) -> None:
        """The announcement has come: begin to receive its payloads. Raises: TransportError."""
        ...

    def unpack(self, message: Ranges) -> AbstractContextManager[Sequence[Any]]:
        """One payload per range, as the store writes it, valid within. Raises: TransportError."""
        ...

    def is_sealed(self, seal: int) -> bool:
        """Whether what was read of the sender's blocks is what it announced; asked when all of it was read."""
        ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


MIN_PUSH_BYTES = 512 << 10  # smaller pushes cost more per byte; the rest leaves with `complete`


def read_into(store: KVStore, spans: Sequence[Span], buffer: Any) -> list[tuple[int, int]]:
    """Lays the spans' payloads one after the other; where in `buffer` each is, in bytes."""
    places = cut([nbytes_of(store, span) for span in spans])
    store.read_all(spans, [buffer[start:end] for start, end in places])
    return places


def nbytes_of(store: KVStore, span: Span | Range) -> int:
    """Raises: TransportError: there is no such payload, or it ends before it begins."""
    if span.index >= len(store.payloads):
        raise TransportError(f"payload {span.index} is announced, but there are {len(store.payloads)}")
    if span.end < span.start:
        raise TransportError(f"payload {span.index} is announced from {span.start} to {span.end}")
    return store.payloads[span.index].unit_nbytes * (span.end - span.start)


class Copied:
    """Transports that read a block once, when they pack it: what becomes of it afterwards is no matter."""

    def seal(self, key: TransferKey) -> int:
        """Nothing to promise: the payloads were copied when they were packed."""
        return 0

    def unseal(self, key: TransferKey | None) -> None:
        """Nothing was promised."""

    def is_sealed(self, seal: int) -> bool:
        return True


class Plain(Copied):
    """What transports without a connection of their own share."""

    store_address = ""
    store_prefix = ""
    min_push_bytes = MIN_PUSH_BYTES

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


class GrpcOut(Plain):
    """Payload bytes inside the announcement; gRPC's flow control is the back-pressure."""

    name = "grpc"
    max_message_bytes = 2 << 20  # gRPC's default limit for a message is 4 MiB

    def __init__(self, store: KVStore, read_all: Callable[[Sequence[Span], Sequence[Any]], None] | None = None) -> None:
        """`read_all`: in place of the store's, for one on a device."""
        self._store = store
        self._read_all = read_all or store.read_all

    def pack(self, spans: Sequence[Span]) -> bytes:
        sizes = [nbytes_of(self._store, span) for span in spans]
        message, places = open_message([wire_range(span) for span in spans], sizes)
        self._read_all(spans, places)
        return message


class GrpcIn(Plain):
    name = "grpc"

    def __init__(self, on_device: Callable[[Sequence[bytes]], Sequence[Any]] | None = None) -> None:
        """`on_device`: brings payloads to where the store is, if that is a device."""
        self._on_device = on_device

    @contextmanager
    def unpack(self, message: Ranges) -> Iterator[Sequence[Any]]:
        payloads = [range_.payload for range_ in message.ranges]
        yield payloads if self._on_device is None else self._on_device(payloads)
