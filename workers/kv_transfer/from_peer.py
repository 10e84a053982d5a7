"""The link from one prefill worker: a thread that takes ranges in and writes them to blocks.

Where a range belongs and what has ended is the book's (`incoming`) to say; the connection is `grpc_link`'s, and
payloads come by a `transport`.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from baton.errors import BatonError, CancelledError, InternalError, UnavailableError
from baton.v1.kv_pb2 import Complete, FromReceiver, FromSender, Offer, Range, Ranges
from workers.kv_transfer.fences import Fence, Gaps
from workers.kv_transfer.handoff import LOOKS_PER_LEASE, HandoffError, State, link_is_down
from workers.kv_transfer.incoming import ABORTED_THERE, Incoming
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.transport import PayloadsIn, TransportError, nbytes_of
from workers.kv_transfer.wire import ack_message, failed_message, first_tokens_of, own_key
from workers.model.contract import KVStore
from workers.spec import KVSpec

Reply = Callable[[FromReceiver | None], None]  # thread-safe; None: end the stream
Item = tuple[Callable[..., None], tuple[Any, ...]]


class OwningInbox(Protocol):
    """The inbox, as the threads from its peers see it."""

    store: KVStore
    kv: KVSpec
    flush: Callable[[], None] | None
    fence: Callable[[], Fence]
    scope: Callable[[], AbstractContextManager[Any]]
    notify: Callable[[], None]
    lock: threading.Lock  # over the book
    book: "Incoming[FromPeer]"

    def count_received(self, nbytes: int, transport: str, idle_s: Iterable[float] = ()) -> None:
        """`idle_s`: what there was nothing to write for, each time."""
        ...

    def forget(self, peer: "FromPeer", error: BatonError) -> None:
        """The peer's link is over, and none of its blocks is written any more."""
        ...


class FromPeer(threading.Thread):
    """All state but the inbox's book is the thread's own; others only `feed`, `post` and call `down`."""

    def __init__(self, inbox: OwningInbox, worker_id: str, payloads: PayloadsIn, reply: Reply) -> None:
        super().__init__(name=f"kv-from-{worker_id}", daemon=True)
        self.worker_id = worker_id
        self.reply = reply
        self._inbox = inbox
        self._book, self._lock = inbox.book, inbox.lock
        self._payloads = payloads
        self._lease_s = inbox.kv.lease_s
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._pending: deque[Item] = deque()  # taken from `_items`; receives of their ranges are posted
        self._under_way: set[TransferKey] = set()  # something of them came, and something is to come
        self._idle_since: Fence | None = None  # while there are any
        self._gaps = Gaps()  # from then until there is something to write
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
            with self._lock:
                self._book.renew(map(own_key, message.renew.keys), time.monotonic())
            if handled is not None:
                handled()
        else:
            self.post(self._handle, message, handled)

    def down(self, reason: str) -> None:
        """The control stream is gone, or shall go. From any thread; idempotent."""
        if self._down_reason is None:
            self._down_reason = reason
            self._payloads.abort()
            self.post(self._raise_down)

    def run(self) -> None:
        error: BatonError = link_is_down("from", self)
        try:
            with self._inbox.scope():
                self._payloads.connect()
                while True:
                    self._step()
        except TransportError as fault:
            error = link_is_down("from", self, self._down_reason or str(fault))
        except Exception as bug:  # the thread's top: whatever it was, it ends this link's transfers by name
            error = InternalError(f"the link from {self.worker_id} failed: {type(bug).__name__}: {bug}")
        finally:
            self._payloads.close()
            self._inbox.forget(self, error)
            self.reply(None)

    def lose(self, key: TransferKey) -> None:
        """The key has ended, and this thread is past what it wrote of it: no write is in flight when this is done."""
        self._wait_for_writes()
        self._rest(key)
        with self._lock:
            self._book.lost(key)
        self._inbox.notify()

    def _rest(self, key: TransferKey) -> None:
        """Nothing more of it is waited for."""
        self._under_way.discard(key)
        if not self._under_way:
            self._idle_since = None

    def _wait_for_writes(self) -> None:
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
            self._payloads.expect(args[0].ranges)
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
            self._end(own_key(message.abort.key), State.ABORTED, CancelledError(ABORTED_THERE))
        else:
            raise HandoffError(f"unexpected message {kind!r}")
        if handled is not None:
            handled()

    def _offer(self, offer: Offer) -> None:
        key = own_key(offer.key)
        try:
            with self._lock:
                self._book.offer(key, self, offer.submit, offer.ingress_id, time.monotonic())
        except BatonError as refusal:
            self.reply(failed_message(key, refusal))
        else:
            self._inbox.notify()

    def _ranges(self, message: Ranges) -> None:
        """Writes all that the message brings at once; only then are transfers ended that it has a fault of, whose
        blocks may be freed."""
        spans: list[Span | None] = []  # None: thrown away
        faults: dict[TransferKey, HandoffError] = {}
        for range_ in message.ranges:
            nbytes_of(self._inbox.store, range_)
            try:
                spans.append(self._place(range_))
            except HandoffError as fault:
                spans.append(None)
                faults.setdefault(own_key(range_.key), fault)
        self._write(message, spans)
        for key, first in faults.items():
            self._fail(key, State.FAILED, first)

    def _place(self, range_: Range) -> Span | None:
        """Where it belongs; None: its transfer has ended. Raises: HandoffError."""
        key = own_key(range_.key)
        with self._lock:
            block_ids = self._book.receive(key, range_.index, range_.start, range_.end)
        if block_ids is None:
            return None
        self._under_way.add(key)
        return Span(key, range_.index, range_.start, range_.end, block_ids)

    def _write(self, message: Ranges, spans: Sequence[Span | None]) -> None:
        store, fence = self._inbox.store, self._inbox.fence
        with self._payloads.unpack(message) as payloads:
            if self._idle_since is not None:
                self._gaps.add(self._idle_since, fence())
            wanted = [(span, payload) for span, payload in zip(spans, payloads, strict=True) if span is not None]
            store.write_all([span for span, _ in wanted], [payload for _, payload in wanted])
        self._idle_since = fence() if self._under_way else None
        nbytes = sum(nbytes_of(store, span) for span, _ in wanted)
        self._inbox.count_received(nbytes, self._payloads.name, self._gaps.settled())

    def _complete(self, complete: Complete) -> None:
        key = own_key(complete.key)
        self._wait_for_writes()
        if not self._payloads.is_sealed(complete.seal):
            text = f"{key.request_id}: {self.worker_id} reused its blocks before they were read"
            self._fail(key, State.FAILED, UnavailableError(text))
            return
        try:
            with self._lock:
                first_tokens = first_tokens_of(complete)
                is_whole = self._book.complete(key, complete.num_tokens, complete.num_ranges, first_tokens)
        except HandoffError as fault:
            self._fail(key, State.FAILED, fault)
            return
        self._rest(key)
        self._inbox.count_received(0, self._payloads.name, self._gaps.settled())
        if is_whole:
            self.reply(ack_message(key))
            self._inbox.notify()

    def _fail(self, key: TransferKey, state: State, error: BatonError) -> None:
        """Ends the transfer of our own accord: the peer is told."""
        if self._end(key, state, error):
            self.reply(failed_message(key, error))

    def _end(self, key: TransferKey, state: State, error: BatonError) -> bool:
        """False: it has ended before. No write is in flight: this is the thread that writes."""
        with self._lock:
            has_ended = self._book.end(key, state, error)
        if has_ended:
            self.lose(key)
        return has_ended

    def _expire(self, now_s: float) -> None:
        with self._lock:
            keys = self._book.keys_from(self)
            overdue = [(key, error) for key in keys if (error := self._book.overdue(key, now_s)) is not None]
        for key, error in overdue:
            self._fail(key, State.EXPIRED, error)
