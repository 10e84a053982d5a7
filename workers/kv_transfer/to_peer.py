"""The link to one decode worker: a thread that reads blocks and pushes them.

What to push and what has ended is the book's (`outgoing`) to say; the connection is the dialer's (`grpc_link`), and
payloads are moved by a `transport`.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from baton.errors import BatonError, ConfigError, InternalError, UnavailableError
from baton.v1.kv_pb2 import AbortTransfer, FromReceiver, FromSender, HandshakeReply, Offer, Renew
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.fences import Fence, Gaps
from workers.kv_transfer.handoff import (
    LOOKS_PER_LEASE,
    RENEWALS_PER_LEASE,
    SHUTTING_DOWN,
    HandoffError,
    State,
    link_is_down,
)
from workers.kv_transfer.handshake import Identity, first_proposal, propose
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.measures import SendingTimes
from workers.kv_transfer.outgoing import Closing, Outgoing, Span
from workers.kv_transfer.stream import LinkDownError, Wire
from workers.kv_transfer.transport import PayloadsOut, TransportError, nbytes_of
from workers.kv_transfer.wire import complete_message, own_error, own_key, wire_key
from workers.model.contract import KVStore
from workers.spec import KVSpec

CONNECT_TIMEOUT_S = 10.0

Dial = Callable[[DecodeRoute, "ToPeer"], Wire]
MakePayloadsOut = Callable[[str, DecodeRoute], PayloadsOut]
Item = tuple[Callable[..., None], tuple[Any, ...]]


class OwningOutbox(Protocol):
    """The outbox, as the threads to its peers see it."""

    store: KVStore
    identity: Identity
    kv: KVSpec
    dial: Dial
    make_payloads: MakePayloadsOut
    notify: Callable[[], None]
    fence: Callable[[], Fence]
    scope: Callable[[], AbstractContextManager[Any]]
    lock: threading.Lock  # over the book
    book: "Outgoing[ToPeer]"
    times: SendingTimes  # too

    def count_sent(self, nbytes: int, transport: str) -> None: ...

    def forget(self, peer: "ToPeer", error: BatonError) -> None:
        """The peer's link is over, and none of its blocks is read any more."""
        ...


class ToPeer(threading.Thread):
    """All state but the outbox's book is the thread's own; others only `post`."""

    def __init__(self, outbox: OwningOutbox, route: DecodeRoute) -> None:
        super().__init__(name=f"kv-to-{route.worker_id}", daemon=True)
        self.worker_id: str = route.worker_id
        self._outbox = outbox
        self._book, self._lock = outbox.book, outbox.lock
        self._route = route
        self._lease_s = outbox.kv.lease_s
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[FromReceiver | LinkDownError] = queue.SimpleQueue()  # while shaking hands
        self._ready: dict[TransferKey, None] = {}  # keys that may have something to push
        self._computed: dict[TransferKey, dict[int, Fence]] = {}  # by layer: since when it has something to push
        self._gaps = Gaps()  # from then until it is pushed
        self._ticked_s = 0.0
        self._renewed_s = 0.0
        self._is_stopped = False
        self._wire: Wire | None = None
        self._opened: PayloadsOut | None = None

    def post(self, handle: Callable[..., None], *args: Any) -> None:
        """From any thread, microseconds."""
        self._items.put((handle, args))

    def on_reply(self, message: FromReceiver) -> None:
        """From the wire's thread."""
        if message.WhichOneof("message") == "handshake":
            self._replies.put(message)
        else:
            self.post(self._reply, message)

    def on_down(self, reason: str) -> None:
        """From the wire's thread: no reply will come any more."""
        self._replies.put(LinkDownError(reason))
        self.post(self._down, reason)
        if self._opened is not None:
            self._opened.abort()

    def run(self) -> None:
        error: BatonError = UnavailableError(SHUTTING_DOWN)
        try:
            with self._outbox.scope():
                self._open()
                while not self._is_stopped:
                    self._step()
        except (LinkDownError, TransportError) as fault:
            error = link_is_down("to", self, str(fault))
        except BatonError as refusal:
            error = refusal
        except Exception as bug:  # the thread's top: whatever it was, it ends this link's transfers by name
            error = InternalError(f"the link to {self.worker_id} failed: {type(bug).__name__}: {bug}")
        finally:
            if self._opened is not None:
                self._opened.unseal(None)
            self._outbox.forget(self, error)
            self._close()

    def _open(self) -> None:
        """Raises: ConfigError: refused. LinkDownError, TransportError."""
        outbox = self._outbox
        self._wire = outbox.dial(self._route, self)
        reply = self._shake_hands(first_proposal(outbox.identity, self._route.address))
        if reply.refusal and reply.transport:
            reply = self._shake_hands(reply.transport)
        if reply.refusal:
            raise ConfigError(f"{self.worker_id} refused the link: {reply.refusal}")
        if self._route.incarnation and reply.incarnation != self._route.incarnation:
            raise LinkDownError(f"{self._route.address} is {reply.worker_id}/{reply.incarnation} now")
        self._payloads.connect()

    def _shake_hands(self, name: str) -> HandshakeReply:
        if self._opened is not None:
            self._opened.close()
        payloads = self._opened = self._outbox.make_payloads(name, self._route)
        handshake = propose(
            self._outbox.identity,
            transport=payloads.name,
            store_address=payloads.store_address,
            store_prefix=payloads.store_prefix,
        )
        self._send(FromSender(handshake=handshake))
        try:
            reply = self._replies.get(timeout=CONNECT_TIMEOUT_S)
        except queue.Empty:
            raise LinkDownError(f"no answer to the handshake within {CONNECT_TIMEOUT_S:g} s") from None
        if isinstance(reply, LinkDownError):
            raise reply
        return reply.handshake

    def _step(self) -> None:
        """Takes in all news, then pushes one message, or waits for more."""
        if not self._ready:
            try:
                handle, args = self._items.get(timeout=self._lease_s / LOOKS_PER_LEASE)
                handle(*args)
            except queue.Empty:
                self._tick(time.monotonic())
                return
        for _ in range(self._items.qsize()):
            handle, args = self._items.get()
            handle(*args)
        if self._ready and not self._is_stopped:
            self._push()
        self._tick(time.monotonic())

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str) -> None:
        if self._book.peer_of(key) is self:  # else its time was over while another message was on its way
            self._send(FromSender(offer=Offer(key=wire_key(key), ingress_id=ingress_id, submit=submit)))

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int],
        fence: Fence,
    ) -> None:
        while self._ready and not fence.is_past():
            self._push()  # earlier layers, while the device computes this one
        fence.wait()
        with self._lock:
            if self._book.peer_of(key) is not self:
                return  # it has ended meanwhile
            self._book.computed(key, layer, num_tokens, block_ids, state_ids)
        self._computed.setdefault(key, {}).setdefault(layer, fence)
        self._ready[key] = None

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        try:
            with self._lock:
                self._book.complete(key, num_tokens, first_tokens)
        except HandoffError as fault:
            self._end(key, State.FAILED, fault)
        self._ready[key] = None

    def abort(self, key: TransferKey) -> None:
        self._end(key, State.ABORTED, None)

    def stop(self) -> None:
        self._is_stopped = True

    def _down(self, reason: str) -> None:
        raise LinkDownError(reason)

    def _reply(self, message: FromReceiver) -> None:
        kind = message.WhichOneof("message")
        if kind == "ticket":
            self._ticket(own_key(message.ticket.key), message.ticket.num_cached_tokens)
        elif kind == "ack":
            self._forget(own_key(message.ack.key), State.COMPLETE, None)
        elif kind == "failed":
            self._forget(own_key(message.failed.key), State.FAILED, own_error(message.failed.error))

    def _ticket(self, key: TransferKey, num_cached_tokens: int) -> None:
        with self._lock:
            is_news = self._book.ticket(key, num_cached_tokens)
            if is_news:
                self._outbox.times.ticketed(key, self._payloads.name, time.monotonic())
        if is_news:
            self._ready[key] = None
            self._outbox.notify()

    def _push(self) -> None:
        """One message of the oldest keys' ranges, then the closing word of those that are done."""
        with self._lock:
            spans, closings = self._take()
            self._outbox.times.pushes((span.key for span in spans), time.monotonic())
        if spans:
            self._note_pushed(spans)
            self._send(self._payloads.pack(spans))
            self._payloads.flush()
            nbytes = sum(nbytes_of(self._outbox.store, span) for span in spans)
            self._outbox.count_sent(nbytes, self._payloads.name)
        for key, closing in closings:
            self._send(complete_message(key, closing, self._payloads.seal(key)))

    def _note_pushed(self, spans: Sequence[Span]) -> None:
        """How long layers have waited, as far as the device has told; of these spans it is to say when they begin."""
        now, store = self._outbox.fence(), self._outbox.store
        for span in spans:
            since = self._computed.get(span.key, {}).pop(store.payloads[span.index].layer, None)
            if since is not None:
                self._gaps.add(since, now)
        with self._lock:
            self._outbox.times.waited(self._payloads.name, self._gaps.settled())

    def _take(self) -> tuple[list[Span], list[tuple[TransferKey, Closing]]]:
        """What fits into one message, and what ends with it."""
        room, least = self._payloads.max_message_bytes, self._payloads.min_push_bytes
        spans: list[Span] = []
        closings: list[tuple[TransferKey, Closing]] = []
        for key in list(self._ready):
            while room > 0 and (taken := self._book.take(key, room, min_bytes=least, is_first=not spans)):
                spans += taken
                room -= sum(nbytes_of(self._outbox.store, span) for span in taken)
            if room <= 0 or (spans and self._book.is_ready(key, min_bytes=least)):  # one more unit would not fit
                break
            del self._ready[key]
            if (closing := self._book.close(key, time.monotonic())) is not None:
                closings.append((key, closing))
        return spans, closings

    def _tick(self, now_s: float) -> None:
        if now_s - self._ticked_s < self._lease_s / LOOKS_PER_LEASE:
            return
        self._ticked_s = now_s
        with self._lock:
            keys = self._book.keys_to(self)
            overdue = {key: error for key in keys if (error := self._book.overdue(key, now_s)) is not None}
        for key, error in overdue.items():
            self._end(key, State.EXPIRED, error)
        live = [wire_key(key) for key in keys if key not in overdue]
        if live and now_s - self._renewed_s >= self._lease_s / RENEWALS_PER_LEASE:
            self._renewed_s = now_s
            self._send(FromSender(renew=Renew(keys=live)))

    def _end(self, key: TransferKey, state: State, error: BatonError | None) -> None:
        """Of our own accord: the peer is told."""
        if self._forget(key, state, error):
            self._send(FromSender(abort=AbortTransfer(key=wire_key(key))))

    def _forget(self, key: TransferKey, state: State, error: BatonError | None) -> bool:
        """False: it has ended before. The seal is broken before the engine can learn that the blocks are free."""
        with self._lock:
            has_ended = self._book.end(key, state, error)
            if has_ended:
                self._computed.pop(key, None)
                self._payloads.unseal(key)
                self._outbox.times.waited(self._payloads.name, self._gaps.settled())
                is_acked = state is State.COMPLETE
                self._outbox.times.ended(key, self._payloads.name, time.monotonic(), is_acked=is_acked)
        if has_ended:
            self._outbox.notify()
        return has_ended

    def _send(self, message: FromSender | bytes) -> None:
        assert self._wire is not None
        self._wire.send(message, self._lease_s)

    def _close(self) -> None:
        if self._wire is not None:
            self._wire.close()
        if self._opened is not None:
            self._opened.close()

    @property
    def _payloads(self) -> PayloadsOut:
        assert self._opened is not None
        return self._opened
