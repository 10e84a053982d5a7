"""The decode side of every link: an Inbox, and one thread per peer that takes ranges in and writes them to blocks.

Invariant: blocks are written by the link's own thread alone, so a key that this thread has ended is not being
written; each `Offered` that was polled gets exactly one of Arrived and Lost, or the engine's own `refuse`.
Coverage, leases and tombstones are `handoff`'s, the connection is `grpc_link`'s or `local_link`'s.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from baton.errors import BatonError, CancelledError, InternalError, OverloadedError, UnavailableError
from baton.v1.kv_pb2 import Complete, FromReceiver, FromSender, Handshake, HandshakeReply, Offer, Ranges
from workers.kv_transfer.handoff import LOOKS_PER_LEASE, HandoffError, ReceiveLedger, State, Tombstones
from workers.kv_transfer.handshake import AUTO, NEXT_BEST, Identity, answer
from workers.kv_transfer.link import Arrived, InboxEvent, Lost, Offered, TransferKey
from workers.kv_transfer.transport import ReceiverTransport, TransportError, nbytes_of
from workers.kv_transfer.wire import ack_message, failed_message, first_tokens_of, own_key, ticket_message
from workers.model.contract import KVStore
from workers.spec import KVSpec

MakeTransport = Callable[[Handshake], ReceiverTransport]
Reply = Callable[[FromReceiver | None], None]  # thread-safe; None: end the stream
Item = tuple[Callable[..., None], tuple[Any, ...]]


class Receiver:
    """Implements `link.Inbox`.

    Args:
        make_transport: For a handshake that was agreed to; raises BatonError for one this machine cannot do.
        flush: Waits for the device to finish what `store.write` began; None where writes are done when they return.
        scope: Entered by each link's thread for its life.
        notify: Called from any thread when `poll` has news.
    """

    def __init__(
        self,
        *,
        store: KVStore,
        identity: Identity,
        kv: KVSpec,
        make_transport: MakeTransport,
        notify: Callable[[], None],
        flush: Callable[[], None] | None = None,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.store = store
        self.identity = identity
        self.kv = kv
        self.flush = flush
        self.scope = scope
        self.bytes_received = 0
        self.num_failed = 0
        self.lock = threading.Lock()  # over all below and every link's ledger
        self.tombstones = Tombstones(lease_s=kv.lease_s)
        self._make_transport = make_transport
        self._notify = notify
        self._events: deque[InboxEvent] = deque()
        self._links: list[ReceiverLink] = []
        self._link_of: dict[TransferKey, ReceiverLink] = {}
        self._aborted: set[TransferKey] = set()
        self._is_closed = False

    @property
    def num_active(self) -> int:
        return len(self._link_of)

    def accept(self, handshake: Handshake, reply: Reply) -> "tuple[HandshakeReply, ReceiverLink | None]":
        """The answer, for the caller to send first, and the link if there is one, already running."""
        told = answer(self.identity, handshake)
        if told.refusal:
            return told, None
        try:
            transport = self._make_transport(handshake)
        except BatonError as error:
            told.refusal = error.message
            if handshake.auto_transport and self.identity.transport == AUTO:
                told.transport = NEXT_BEST.get(handshake.transport, "")
            return told, None
        link = ReceiverLink(self, handshake.worker_id, transport, reply)
        with self.lock:
            self._links.append(link)
            is_closed = self._is_closed
        link.start()
        if is_closed:
            link.down("this worker is shutting down")  # no refusal: the sender shall try another worker
        return told, link

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> None:
        with self.lock:
            link = self._link_of.get(key)
            if link is not None and link.ledger.grant(key, tuple(block_ids), num_cached_tokens, tuple(state_ids)):
                link.reply(ticket_message(key, num_cached_tokens))

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        """Ends the offer: no event follows."""
        with self.lock:
            if (link := self._link_of.get(key)) is not None:
                link.ledger.end(key, State.FAILED)
                self._drop(key)
                link.reply(failed_message(key, error))
            self._events = deque(event for event in self._events if not _is_lost(event, key))

    def abort(self, key: TransferKey) -> None:
        with self.lock:
            self.tombstones.bury(key, time.monotonic())
            link = self._link_of.get(key)
            if link is not None and key not in self._aborted:
                self._aborted.add(key)
                link.ledger.end(key, State.ABORTED)
                link.reply(failed_message(key, CancelledError("the decode worker aborted the request")))
                link.post(link.told_abort, key)
            elif link is None:
                self._events = deque(Lost(key, None) if _is_arrived(e, key) else e for e in self._events)

    def poll(self) -> list[InboxEvent]:
        with self.lock:
            events = [event for event in self._events if not self._is_withheld(event)]
            self._events = deque(event for event in self._events if self._is_withheld(event))
        return events

    def _is_withheld(self, event: InboxEvent) -> bool:
        """An offer aborted before it was seen is taken back soon."""
        return isinstance(event, Offered) and event.key in self._aborted

    def close(self) -> None:
        """Ends every link, and with them every transfer."""
        with self.lock:
            self._is_closed = True
            links = list(self._links)
        for link in links:
            link.down("this worker is shutting down")
        for link in links:
            link.join(timeout=self.kv.lease_s)

    # What the links' threads call.

    def welcome(self, link: "ReceiverLink", key: TransferKey, offer: Offer) -> None:
        """Raises: BatonError: the offer is refused."""
        now_s = time.monotonic()
        with self.lock:
            if (why := self.tombstones.why_refused(key, now_s)) is not None:
                raise CancelledError(f"{key.request_id}: {why}")
            num_pending = sum(other.ledger.num_pending for other in self._links)
            if num_pending >= self.kv.max_pending:
                raise OverloadedError(
                    f"{num_pending} offers wait here for blocks; kv.max_pending is {self.kv.max_pending}"
                )
            if key in self._link_of:
                raise InternalError(f"{key.request_id}: offered twice")
            link.ledger.offer(key, now_s)
            self.tombstones.saw(key, now_s)
            self._link_of[key] = link
            self._events.append(Offered(key, offer.submit, offer.ingress_id))
        self._notify()

    def tell_arrived(self, event: Arrived) -> None:
        with self.lock:
            if event.key in self._aborted:
                return  # `told_abort` is queued behind
            self._drop(event.key)
            self._events.append(event)
        self._notify()

    def tell_lost(self, key: TransferKey, error: BatonError | None) -> None:
        """No write of the key's is in flight. An `Offered` that nobody has seen is taken back instead."""
        with self.lock:
            if key not in self._link_of:
                return
            error = None if key in self._aborted else error
            self._drop(key)
            self.num_failed += error is not None and not isinstance(error, CancelledError)
            unseen = [event for event in self._events if isinstance(event, Offered) and event.key == key]
            for event in unseen:
                self._events.remove(event)
            if not unseen:
                self._events.append(Lost(key, error))
        self._notify()

    def count_received(self, nbytes: int) -> None:
        with self.lock:
            self.bytes_received += nbytes

    def forget(self, link: "ReceiverLink", error: BatonError) -> None:
        with self.lock:
            self._links.remove(link)
            keys = [key for key, other in self._link_of.items() if other is link]
            for key in keys:
                link.ledger.end(key, State.FAILED)
        for key in keys:
            self.tell_lost(key, error)

    def _drop(self, key: TransferKey) -> None:
        self._link_of.pop(key, None)
        self._aborted.discard(key)


def _is_lost(event: InboxEvent, key: TransferKey) -> bool:
    return isinstance(event, Lost) and event.key == key


def _is_arrived(event: InboxEvent, key: TransferKey) -> bool:
    return isinstance(event, Arrived) and event.key == key


class ReceiverLink(threading.Thread):
    """One peer's link. Others `feed`, `post` and `down`; `ledger` is under the inbox's lock."""

    def __init__(self, inbox: Receiver, worker_id: str, transport: ReceiverTransport, reply: Reply) -> None:
        super().__init__(name=f"kv-from-{worker_id}", daemon=True)
        self.ledger = ReceiveLedger(payloads=inbox.store.payloads, lease_s=inbox.kv.lease_s)
        self.reply = reply
        self._inbox = inbox
        self._worker_id = worker_id
        self._transport = transport
        self._lease_s = inbox.kv.lease_s
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._pending: deque[Item] = deque()  # taken from `_items`; receives of their ranges are posted
        self._ticked_s = 0.0
        self._down_reason: str | None = None

    @property
    def backlog(self) -> int:
        """Messages not yet handled; what feeds should stay at a few."""
        return self._items.qsize() + len(self._pending)

    def post(self, handle: Callable[..., None], *args: Any) -> None:
        self._items.put((handle, args))

    def feed(self, message: FromSender, handled: Callable[[], None] | None = None) -> None:
        """Takes one message in, in order, from the control stream; `handled` is called once it is dealt with."""
        if message.WhichOneof("message") == "renew":
            with self._inbox.lock:
                self.ledger.renew(map(own_key, message.renew.keys), time.monotonic())
            if handled is not None:
                handled()
        else:
            self.post(self._handle, message, handled)

    def down(self, reason: str) -> None:
        """The control stream is gone, or shall go. From any thread; idempotent."""
        if self._down_reason is None:
            self._down_reason = reason
            self._transport.abort()
            self.post(self._raise_down)

    def run(self) -> None:
        error: BatonError = UnavailableError(f"the link from {self._worker_id} is down")
        try:
            with self._inbox.scope():
                self._transport.connect()
                while True:
                    self._step()
        except TransportError as fault:
            reason = self._down_reason or str(fault)
            error = UnavailableError(f"the link from {self._worker_id} is down: {reason}")
        except Exception as bug:  # the thread's top: whatever it was, it ends this link's transfers by name
            error = InternalError(f"the link from {self._worker_id} failed: {type(bug).__name__}: {bug}")
        finally:
            self._transport.close()
            self._inbox.forget(self, error)
            self.reply(None)

    def told_abort(self, key: TransferKey) -> None:
        """Own abort, queued behind what was announced before: no write is in flight when this is done."""
        self._settle()
        self._inbox.tell_lost(key, None)

    def _settle(self) -> None:
        """Waits for writes that the device has not finished."""
        if self._inbox.flush is not None:
            self._inbox.flush()

    def _step(self) -> None:
        self._look_ahead()
        if self._pending:
            handle, args = self._pending.popleft()
            handle(*args)
        now_s = time.monotonic()
        if now_s - self._ticked_s >= self._lease_s / LOOKS_PER_LEASE:
            self._ticked_s = now_s
            self._expire(now_s)

    def _look_ahead(self) -> None:
        """Takes all news off the queue, or waits for some until it is time to look at the leases."""
        if not self._pending:
            with contextlib.suppress(queue.Empty):
                self._take(self._items.get(timeout=self._lease_s / LOOKS_PER_LEASE))
        for _ in range(self._items.qsize()):
            self._take(self._items.get())

    def _take(self, item: Item) -> None:
        handle, args = item
        if handle == self._handle and args[0].WhichOneof("message") == "ranges":
            self._transport.expect(args[0].ranges)
        self._pending.append(item)

    def _raise_down(self) -> None:
        raise TransportError(self._down_reason)

    def _handle(self, message: FromSender, handled: Callable[[], None] | None) -> None:
        kind = message.WhichOneof("message")
        if kind == "ranges":
            self._ranges(message.ranges)
        elif kind == "offer":
            self._offer(message.offer)
        elif kind == "complete":
            self._complete(message.complete)
        elif kind == "abort":
            self._fail(
                own_key(message.abort.key), State.ABORTED, CancelledError("the prefill worker ended the transfer")
            )
        else:
            raise HandoffError(f"unexpected message {kind!r}")
        if handled is not None:
            handled()

    def _offer(self, offer: Offer) -> None:
        key = own_key(offer.key)
        try:
            self._inbox.welcome(self, key, offer)
        except BatonError as refusal:
            self.reply(failed_message(key, refusal))

    def _ranges(self, message: Ranges) -> None:
        store = self._inbox.store
        nbytes = 0
        for range_, payload in zip(message.ranges, self._transport.unpack(message), strict=True):
            key = own_key(range_.key)
            nbytes += nbytes_of(store, range_)
            try:
                with self._inbox.lock:
                    block_ids = self.ledger.receive(key, range_.index, range_.start, range_.end)
            except HandoffError as fault:
                self._fail(key, State.FAILED, InternalError(f"{key.request_id}: {fault}"))
                continue
            if block_ids is not None:
                store.write(range_.index, block_ids, range_.start, range_.end, payload)
        self._inbox.count_received(nbytes)

    def _complete(self, complete: Complete) -> None:
        key = own_key(complete.key)
        self._settle()
        if not self._transport.is_sealed(complete.seal):
            error = UnavailableError(f"{key.request_id}: {self._worker_id} reused its blocks before they were read")
            self._fail(key, State.FAILED, error)
            return
        try:
            with self._inbox.lock:
                is_whole = self.ledger.complete(key, complete.num_tokens, complete.num_ranges)
        except HandoffError as fault:
            self._fail(key, State.FAILED, InternalError(f"{key.request_id}: {fault}"))
            return
        if is_whole:
            self._inbox.tell_arrived(Arrived(key, complete.num_tokens, first_tokens_of(complete)))
            self.reply(ack_message(key))

    def _fail(self, key: TransferKey, state: State, error: BatonError) -> None:
        """Ends the transfer, tells both sides. Runs in the link's thread: no write is in flight."""
        with self._inbox.lock:
            if not self.ledger.end(key, state):
                return
        if state is not State.ABORTED:
            self.reply(failed_message(key, error))
        self._settle()
        self._inbox.tell_lost(key, error)

    def _expire(self, now_s: float) -> None:
        with self._inbox.lock:
            overdue = self.ledger.overdue(now_s)
        for key in overdue:
            error = UnavailableError(f"{key.request_id}: not renewed by {self._worker_id} within {self._lease_s:g} s")
            self._fail(key, State.EXPIRED, error)
