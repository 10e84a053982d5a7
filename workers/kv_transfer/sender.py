"""The prefill side of every link: an Outbox, and one thread per peer that reads blocks and pushes them.

Invariant: blocks are read by the link's own thread alone, so a key that this thread has ended is not being read; each
offered key gets exactly one of Acked and Ended. Cursors and deadlines are `handoff.SendLedger`'s, the connection is
the dialer's (`grpc_link`, `local_link`), payloads are moved by a `transport`.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from baton.errors import BatonError, CancelledError, ConfigError, InternalError, UnavailableError
from baton.v1.kv_pb2 import AbortTransfer, FromReceiver, FromSender, HandshakeReply, Offer, Renew
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.handoff import (
    LOOKS_PER_LEASE,
    RENEWALS_PER_LEASE,
    Closing,
    HandoffError,
    SendLedger,
    Span,
    State,
)
from workers.kv_transfer.handshake import Identity, first_proposal, propose
from workers.kv_transfer.link import Acked, Ended, OutboxEvent, Ticketed, TransferKey
from workers.kv_transfer.transport import SenderTransport, TransportError, nbytes_of
from workers.kv_transfer.wire import complete_message, own_error, own_key, wire_key
from workers.model.contract import KVStore
from workers.spec import KVSpec

CONNECT_TIMEOUT_S = 10.0


class LinkDownError(Exception):
    """The control stream is gone."""


class Wire(Protocol):
    """The control stream of one link. What comes back is given to `SenderLink.on_reply` and `on_down`."""

    def send(self, message: FromSender | bytes, timeout_s: float) -> None:
        """Blocks while the peer is slow; `message` may be written out already.

        Raises: LinkDownError: the stream is gone, or the peer took nothing for `timeout_s`.
        """
        ...

    def close(self) -> None: ...


class Fence(Protocol):
    """A point in what the device was given to do."""

    def is_past(self) -> bool: ...

    def wait(self) -> None:
        """Until the device is past it."""
        ...


Dial = Callable[[DecodeRoute, "SenderLink"], Wire]
MakeTransport = Callable[[str, DecodeRoute], SenderTransport]
Item = tuple[Callable[..., None], tuple[Any, ...]]


class Sender:
    """Implements `link.Outbox`.

    Args:
        dial: Opens the control stream to a route.
        make_transport: By name; raises ConfigError for one that this machine cannot do.
        fence: Called in the engine's thread by `computed`; blocks are read when the device is past what it returns.
            None where computing is done when `computed` is called.
        scope: Entered by each link's thread for its life.
        notify: Called from any thread when `poll` has news.
    """

    def __init__(
        self,
        *,
        store: KVStore,
        identity: Identity,
        kv: KVSpec,
        dial: Dial,
        make_transport: MakeTransport,
        notify: Callable[[], None],
        fence: Callable[[], Fence] | None = None,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.store = store
        self.identity = identity
        self.kv = kv
        self.dial = dial
        self.make_transport = make_transport
        self.scope = scope
        self.bytes_sent = 0
        self.num_failed = 0
        self._notify = notify
        self._fence = fence
        self._events: deque[OutboxEvent] = deque()
        self._lock = threading.Lock()  # over the three below
        self._links: dict[tuple[str, str], SenderLink] = {}
        self._link_of: dict[TransferKey, SenderLink] = {}
        self._aborted: set[TransferKey] = set()
        self._is_closed = False

    @property
    def num_active(self) -> int:
        return len(self._link_of)

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int) -> None:
        with self._lock:
            assert key not in self._link_of, f"{key} is offered already"
            if self._is_closed:
                self._events.append(Ended(key, UnavailableError("this worker is shutting down")))
                self._notify()
                return
            peer = (route.worker_id, route.incarnation)
            link = self._links.get(peer)
            if link is None:
                link = self._links[peer] = SenderLink(self, route)
                link.start()
            self._link_of[key] = link
            link.post(link.offer, key, submit, ingress_id, num_tokens)

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        if (link := self._link_of.get(key)) is not None:
            fence = self._fence() if self._fence is not None else None
            link.post(link.computed, fence, key, layer, num_tokens, tuple(block_ids), tuple(state_ids))

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        if (link := self._link_of.get(key)) is not None:
            link.post(link.complete, key, num_tokens, tuple(first_tokens))

    def abort(self, key: TransferKey) -> None:
        with self._lock:
            if (link := self._link_of.get(key)) is not None and key not in self._aborted:
                self._aborted.add(key)
                link.post(link.abort, key)

    def poll(self) -> list[OutboxEvent]:
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def close(self) -> None:
        """Ends every link, and with them every transfer."""
        with self._lock:
            self._is_closed = True
            links = list(self._links.values())
        for link in links:
            link.post(link.stop)
        for link in links:
            link.join(timeout=CONNECT_TIMEOUT_S)

    def tell(self, event: OutboxEvent) -> None:
        """From a link's thread. A key's end is told once; later ones are dropped."""
        if not isinstance(event, Ticketed):
            with self._lock:
                if self._link_of.pop(event.key, None) is None:
                    return
                if isinstance(event, Ended) and event.key in self._aborted:
                    event = Ended(event.key, None)
                self._aborted.discard(event.key)
                if isinstance(event, Ended):
                    self.num_failed += event.error is not None and not isinstance(event.error, CancelledError)
        self._events.append(event)
        self._notify()

    def count_sent(self, nbytes: int) -> None:
        with self._lock:
            self.bytes_sent += nbytes

    def forget(self, link: "SenderLink", error: BatonError) -> None:
        """The link is over: its transfers end, and the next offer to its peer makes a new one."""
        with self._lock:
            for peer in [peer for peer, other in self._links.items() if other is link]:
                del self._links[peer]
            keys = [key for key, other in self._link_of.items() if other is link]
        for key in keys:
            self.tell(Ended(key, error))


class SenderLink(threading.Thread):
    """One peer's link. All state is the thread's own; others only `post`."""

    def __init__(self, outbox: Sender, route: DecodeRoute) -> None:
        super().__init__(name=f"kv-to-{route.worker_id}", daemon=True)
        self._outbox = outbox
        self._route = route
        self._lease_s = outbox.kv.lease_s
        self._ledger: SendLedger  # made when the transport is known
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[FromReceiver | LinkDownError] = queue.SimpleQueue()  # while shaking hands
        self._ready: dict[TransferKey, None] = {}  # keys that may have something to push
        self._ticked_s = 0.0
        self._renewed_s = 0.0
        self._is_stopped = False
        self._wire: Wire | None = None
        self._transport: SenderTransport | None = None

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
        if self._transport is not None:
            self._transport.abort()

    def run(self) -> None:
        error: BatonError = UnavailableError("this worker is shutting down")
        try:
            with self._outbox.scope():
                self._open()
                while not self._is_stopped:
                    self._step()
        except (LinkDownError, TransportError) as fault:
            error = UnavailableError(f"the link to {self._route.worker_id} is down: {fault}")
        except BatonError as refusal:
            error = refusal
        except Exception as bug:  # the thread's top: whatever it was, it ends this link's transfers by name
            error = InternalError(f"the link to {self._route.worker_id} failed: {type(bug).__name__}: {bug}")
        finally:
            if self._transport is not None:
                self._transport.unseal(None)
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
            raise ConfigError(f"{self._route.worker_id} refused the link: {reply.refusal}")
        if self._route.incarnation and reply.incarnation != self._route.incarnation:
            raise LinkDownError(f"{self._route.address} is {reply.worker_id}/{reply.incarnation} now")
        self._pipe.connect()
        self._ledger = SendLedger(
            payloads=outbox.store.payloads,
            lease_s=self._lease_s,
            min_push_bytes=self._pipe.min_push_bytes,
            bulk=outbox.kv.push == "bulk",
        )

    def _shake_hands(self, name: str) -> HandshakeReply:
        if self._transport is not None:
            self._transport.close()
        transport = self._transport = self._outbox.make_transport(name, self._route)
        handshake = propose(
            self._outbox.identity,
            transport=transport.name,
            store_address=transport.store_address,
            store_prefix=transport.store_prefix,
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

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, num_tokens: int) -> None:
        wait_s = submit.timeout_s or self._lease_s
        self._ledger.offer(key, num_tokens, time.monotonic() + wait_s)
        self._send(FromSender(offer=Offer(key=wire_key(key), ingress_id=ingress_id, submit=submit)))

    def computed(self, fence: Fence | None, key: TransferKey, *what: Any) -> None:
        if fence is not None:
            while self._ready and not fence.is_past():
                self._push()  # earlier layers, while the device computes this one
            fence.wait()
        self._ledger.computed(key, *what)
        self._ready[key] = None

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        try:
            self._ledger.complete(key, num_tokens, first_tokens)
        except HandoffError as fault:
            self._fail(key, State.FAILED, InternalError(f"{key.request_id}: {fault}"))
        self._ready[key] = None

    def abort(self, key: TransferKey) -> None:
        if key in self._ledger:
            self._fail(key, State.ABORTED, None)

    def stop(self) -> None:
        self._is_stopped = True

    def _down(self, reason: str) -> None:
        raise LinkDownError(reason)

    def _reply(self, message: FromReceiver) -> None:
        kind = message.WhichOneof("message")
        if kind == "ticket":
            key = own_key(message.ticket.key)
            if self._ledger.ticket(key, message.ticket.num_cached_tokens):
                self._ready[key] = None
                self._outbox.tell(Ticketed(key, message.ticket.num_cached_tokens))
        elif kind == "ack":
            key = own_key(message.ack.key)
            if self._ledger.end(key, State.COMPLETE):
                self._pipe.unseal(key)
                self._outbox.tell(Acked(key))
        elif kind == "failed":
            key = own_key(message.failed.key)
            if self._ledger.end(key, State.FAILED):
                self._pipe.unseal(key)
                self._outbox.tell(Ended(key, own_error(message.failed.error)))

    def _push(self) -> None:
        """One message of the oldest keys' ranges, then the closing word of those that are done."""
        room = self._pipe.max_message_bytes
        spans: list[Span] = []
        closings: list[tuple[TransferKey, Closing]] = []
        for key in list(self._ready):
            while room > 0 and (taken := self._ledger.take(key, room)):
                spans += taken
                room -= sum(nbytes_of(self._outbox.store, span) for span in taken)
            if room <= 0:
                break
            del self._ready[key]
            if (closing := self._ledger.close(key, time.monotonic())) is not None:
                closings.append((key, closing))
        if spans:
            self._send(self._pipe.pack(spans))
            self._pipe.flush()
            self._outbox.count_sent(self._pipe.max_message_bytes - room)
        for key, closing in closings:
            self._send(complete_message(key, closing, self._pipe.seal(key)))

    def _tick(self, now_s: float) -> None:
        if now_s - self._ticked_s < self._lease_s / LOOKS_PER_LEASE:
            return
        self._ticked_s = now_s
        for key in self._ledger.overdue(now_s):
            waited = "blocks" if self._ledger.state(key) is State.OFFERED else f"an ack for {self._lease_s:g} s"
            error = UnavailableError(f"{key.request_id} waited for {waited} of {self._route.worker_id} in vain")
            self._fail(key, State.EXPIRED, error)
        if len(self._ledger) and now_s - self._renewed_s >= self._lease_s / RENEWALS_PER_LEASE:
            self._renewed_s = now_s
            self._send(FromSender(renew=Renew(keys=[wire_key(key) for key in self._ledger.keys])))

    def _fail(self, key: TransferKey, state: State, error: BatonError | None) -> None:
        if self._ledger.end(key, state):
            self._pipe.unseal(key)
            self._send(FromSender(abort=AbortTransfer(key=wire_key(key))))
            self._outbox.tell(Ended(key, error))

    def _send(self, message: FromSender | bytes) -> None:
        assert self._wire is not None
        self._wire.send(message, self._lease_s)

    def _close(self) -> None:
        if self._wire is not None:
            self._wire.close()
        if self._transport is not None:
            self._transport.close()

    @property
    def _pipe(self) -> SenderTransport:
        assert self._transport is not None
        return self._transport
