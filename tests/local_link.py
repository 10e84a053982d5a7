"""An outbox and an inbox in one process, joined by queues: the links of two engines side by side."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from baton.v1.kv_pb2 import FromReceiver, FromSender, Ranges
from workers.kv_transfer.from_peer import FromPeer
from workers.kv_transfer.handshake import Identity
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.link import Inbox, Outbox
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.stream import LinkDownError
from workers.kv_transfer.to_peer import ToPeer
from workers.kv_transfer.transport import Plain, nbytes_of, read_into
from workers.kv_transfer.wire import wire_range
from workers.model.contract import KVStore
from workers.spec import KVSpec

MAX_BACKLOG = 4  # messages that the receiver's thread may be behind


def local_pair(
    sender_store: KVStore,
    receiver_store: KVStore,
    *,
    kv: KVSpec | None = None,
    notify_sender: Callable[[], None] = lambda: None,
    notify_receiver: Callable[[], None] = lambda: None,
) -> tuple[Outbox, Inbox]:
    """Joined for good: every route of the outbox's offers leads to the inbox. Both are to be closed."""
    kv = kv or KVSpec()
    pipe = LocalPipe()
    inbox = ThreadedInbox(
        store=receiver_store,
        identity=identify("local-receiver", receiver_store),
        kv=kv,
        make_payloads=lambda _: LocalIn(pipe),
        notify=notify_receiver,
    )
    outbox = ThreadedOutbox(
        store=sender_store,
        identity=identify("local-sender", sender_store),
        kv=kv,
        dial=lambda _, link: LocalWire(inbox, link),
        make_payloads=lambda _name, _route: LocalOut(pipe, sender_store),
        notify=notify_sender,
    )
    return outbox, inbox


def identify(worker_id: str, store: KVStore) -> Identity:
    return Identity(
        worker_id=worker_id,
        incarnation="",
        fingerprint="local",
        dtype="",
        payloads=store.payloads,
        block_size=store.block_size,
        device="cpu",
        host="",
        transport="inproc",
    )


class LocalWire:
    """The control stream: messages go straight to the receiver link's queue."""

    def __init__(self, inbox: ThreadedInbox, link: ToPeer) -> None:
        self._inbox = inbox
        self._sender = link
        self._receiver: FromPeer | None = None
        self._room = threading.Semaphore(MAX_BACKLOG)
        self._is_down = False

    def send(self, message: FromSender | bytes, timeout_s: float) -> None:
        assert isinstance(message, FromSender), "an in-process transport writes nothing"
        if self._is_down:
            raise LinkDownError("the receiver is closed")
        if self._receiver is None:
            told, self._receiver = self._inbox.accept(message.handshake, self._reply)
            self._sender.on_reply(FromReceiver(handshake=told))
            return
        if not self._room.acquire(timeout=timeout_s):
            raise LinkDownError(f"the peer took nothing for {timeout_s:g} s")
        self._receiver.feed(message, self._room.release)

    def close(self) -> None:
        self._is_down = True
        if self._receiver is not None:
            self._receiver.down("the peer closed the stream")

    def _reply(self, message: FromReceiver | None) -> None:
        if message is not None:
            self._sender.on_reply(message)
            return
        self._is_down = True
        self._room.release()
        self._sender.on_down("the peer closed the stream")


class LocalPipe:
    """Payloads of an in-process pair, by reference."""

    def __init__(self) -> None:
        self.payloads: deque[Any] = deque()


class LocalOut(Plain):
    name = "inproc"
    max_message_bytes = 4 << 20

    def __init__(self, pipe: LocalPipe, store: KVStore) -> None:
        self._pipe = pipe
        self._store = store

    def pack(self, spans: Sequence[Span]) -> FromSender:
        buffer = self._store.empty_payload(sum(nbytes_of(self._store, span) for span in spans))
        self._pipe.payloads.extend(buffer[start:end] for start, end in read_into(self._store, spans, buffer))
        return FromSender(ranges=Ranges(ranges=map(wire_range, spans)))


class LocalIn(Plain):
    name = "inproc"

    def __init__(self, pipe: LocalPipe) -> None:
        self._pipe = pipe

    @contextmanager
    def unpack(self, message: Ranges) -> Iterator[Sequence[Any]]:
        yield [self._pipe.payloads.popleft() for _ in message.ranges]
