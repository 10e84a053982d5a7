"""The decode side of a worker: the book of what comes in, driven by one thread per peer.

Invariant: the book is read and changed under `lock`. Blocks are written by a peer's thread alone, and it is this thread
that says of an ended key that no write is in flight.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from baton.errors import BatonError, CancelledError
from baton.v1.kv_pb2 import Handshake, HandshakeReply
from workers.kv_transfer.fences import Fence, Moment
from workers.kv_transfer.from_peer import FromPeer, Reply
from workers.kv_transfer.handoff import SHUTTING_DOWN, State
from workers.kv_transfer.handshake import AUTO, NEXT_BEST, Identity, answer
from workers.kv_transfer.incoming import ABORTED_HERE, Incoming
from workers.kv_transfer.link import InboxEvent, TransferKey
from workers.kv_transfer.measures import ByTransport, LinkMeasures
from workers.kv_transfer.transport import PayloadsIn
from workers.kv_transfer.wire import failed_message, ticket_message
from workers.model.contract import KVStore
from workers.spec import KVSpec

MakePayloadsIn = Callable[[Handshake], PayloadsIn]


class ThreadedInbox:
    """Implements `link.Inbox`.

    Args:
        make_payloads: The data path of a handshake that was agreed to; raises BatonError for one that this machine
            cannot do.
        flush: Waits for the device to finish what `store.write` began; None where writes are done when they return.
        fence: Marks what the device was given to write so far.
        scope: Entered by each peer's thread for its life.
        notify: Called from any thread when `poll` has news.
    """

    def __init__(
        self,
        *,
        store: KVStore,
        identity: Identity,
        kv: KVSpec,
        make_payloads: MakePayloadsIn,
        notify: Callable[[], None],
        flush: Callable[[], None] | None = None,
        fence: Callable[[], Fence] = Moment,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.store = store
        self.identity = identity
        self.kv = kv
        self.flush = flush
        self.fence = fence
        self.scope = scope
        self.notify = notify
        self.bytes_received = 0
        self.received: ByTransport = {}
        self.lock = threading.Lock()  # over all below
        self.book: Incoming[FromPeer] = Incoming(
            payloads=store.payloads, lease_s=kv.lease_s, max_pending=kv.max_pending
        )
        self._peers: list[FromPeer] = []
        self._is_closed = False
        self._make_payloads = make_payloads

    @property
    def num_active(self) -> int:
        return len(self.book)

    @property
    def num_failed(self) -> int:
        return self.book.num_failed

    @property
    def measures(self) -> Sequence[ByTransport]:
        return (self.received,)

    def accept(self, handshake: Handshake, reply: Reply) -> tuple[HandshakeReply, FromPeer | None]:
        """The answer, for the caller to send first, and the link if there is one, already running."""
        told = answer(self.identity, handshake)
        if told.refusal:
            return told, None
        try:
            payloads = self._make_payloads(handshake)
        except BatonError as error:
            told.refusal = error.message
            if handshake.auto_transport and self.identity.transport == AUTO:
                told.transport = NEXT_BEST.get(handshake.transport, "")
            return told, None
        peer = FromPeer(self, handshake.worker_id, payloads, reply)
        with self.lock:
            self._peers.append(peer)
            is_closed = self._is_closed
            peer.start()  # before `close` can find it: only what runs can be joined
        if is_closed:
            peer.down(SHUTTING_DOWN)  # no refusal: the sender shall try another worker
        return told, peer

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> None:
        with self.lock:
            peer = self.book.grant(key, tuple(block_ids), num_cached_tokens, tuple(state_ids))
            if peer is not None:
                peer.reply(ticket_message(key, num_cached_tokens))

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        """Ends the offer: no event follows."""
        with self.lock:
            if (peer := self.book.refuse(key)) is not None:
                peer.reply(failed_message(key, error))

    def abort(self, key: TransferKey, error: BatonError | None = None) -> None:
        """`error`: what the sender is told; None: that the request was aborted here."""
        with self.lock:
            if (peer := self.book.abort(key, time.monotonic())) is not None:
                peer.reply(failed_message(key, error or CancelledError(ABORTED_HERE)))
                peer.post(peer.lose, key)  # queued behind what was announced before

    def poll(self) -> list[InboxEvent]:
        with self.lock:
            return self.book.poll()

    def close(self) -> None:
        """Ends every link, and with them every transfer."""
        with self.lock:
            self._is_closed = True
            peers = list(self._peers)
        for peer in peers:
            peer.down(SHUTTING_DOWN)
        for peer in peers:
            peer.join(timeout=self.kv.lease_s)

    # What the peers' threads call.

    def count_received(self, nbytes: int, transport: str, idle_s: Iterable[float] = ()) -> None:
        with self.lock:
            self.bytes_received += nbytes
            measures = self.received.setdefault(transport, LinkMeasures())
            measures.bytes_received += nbytes
            for each in idle_s:
                measures.idle_s.observe(each)

    def forget(self, peer: FromPeer, error: BatonError) -> None:
        """The link is over, and writes nothing any more: its transfers end."""
        with self.lock:
            self._peers.remove(peer)
            for key in self.book.keys_from(peer):
                self.book.end(key, State.FAILED, error)
                self.book.lost(key)
        self.notify()
