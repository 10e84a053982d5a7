"""The prefill side of a worker: the book of what goes out, driven by one thread per peer.

Invariant: the book is read and changed under `lock`. Blocks are read by a peer's thread alone, and it is this thread
that ends a key, so that a key with an end is not being read.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from baton.errors import BatonError, UnavailableError
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.fences import Fence, Moment
from workers.kv_transfer.handoff import SHUTTING_DOWN, State
from workers.kv_transfer.handshake import Identity
from workers.kv_transfer.link import OutboxEvent, TransferKey
from workers.kv_transfer.measures import ByTransport, SendingTimes
from workers.kv_transfer.outgoing import Outgoing
from workers.kv_transfer.to_peer import CONNECT_TIMEOUT_S, Dial, MakePayloadsOut, ToPeer
from workers.model.contract import KVStore
from workers.spec import KVSpec


class ThreadedOutbox:
    """Implements `link.Outbox`.

    Args:
        dial: Opens the control stream to a route.
        make_payloads: The data path by name; raises ConfigError for one that this machine cannot do.
        fence: Called in the engine's thread by `computed`; blocks are read when the device is past what it returns.
            By default computing is done when `computed` is called.
        scope: Entered by each peer's thread for its life.
        notify: Called from any thread when `poll` has news.
    """

    def __init__(
        self,
        *,
        store: KVStore,
        identity: Identity,
        kv: KVSpec,
        dial: Dial,
        make_payloads: MakePayloadsOut,
        notify: Callable[[], None],
        fence: Callable[[], Fence] = Moment,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.store = store
        self.identity = identity
        self.kv = kv
        self.dial = dial
        self.make_payloads = make_payloads
        self.notify = notify
        self.fence = fence
        self.scope = scope
        self.bytes_sent = 0
        self.times = SendingTimes()
        self.lock = threading.Lock()  # over all below
        self.book: Outgoing[ToPeer] = Outgoing(payloads=store.payloads, lease_s=kv.lease_s, bulk=kv.push == "bulk")
        self._peers: dict[tuple[str, str], ToPeer] = {}
        self._is_closed = False

    @property
    def num_active(self) -> int:
        return len(self.book)

    @property
    def num_failed(self) -> int:
        return self.book.num_failed

    @property
    def measures(self) -> Sequence[ByTransport]:
        return (self.times.by_transport,)

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int) -> None:
        with self.lock:
            if not self._is_closed:
                peer = self._peer(route)
                now_s = time.monotonic()
                self.book.offer(key, peer, num_tokens=num_tokens, timeout_s=submit.timeout_s, now_s=now_s)
                self.times.offered(key, now_s)
                peer.post(peer.offer, key, submit, ingress_id)
                return
            self.book.refuse(key, UnavailableError(SHUTTING_DOWN))
        self.notify()

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        if (peer := self.book.peer_of(key)) is not None:  # one look into a dict, which needs no lock
            peer.post(peer.computed, key, layer, num_tokens, tuple(block_ids), tuple(state_ids), self.fence())

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        if (peer := self.book.peer_of(key)) is not None:
            self.times.computed(key, time.monotonic())
            peer.post(peer.complete, key, num_tokens, tuple(first_tokens))

    def abort(self, key: TransferKey) -> None:
        with self.lock:
            if (peer := self.book.peer_of(key)) is not None and self.book.abort(key):
                peer.post(peer.abort, key)

    def poll(self) -> list[OutboxEvent]:
        with self.lock:
            return self.book.poll()

    def close(self) -> None:
        """Ends every link, and with them every transfer."""
        with self.lock:
            self._is_closed = True
            peers = list(self._peers.values())
        for peer in peers:
            peer.post(peer.stop)
        for peer in peers:
            peer.join(timeout=CONNECT_TIMEOUT_S)

    # What the peers' threads call.

    def count_sent(self, nbytes: int, transport: str) -> None:
        with self.lock:
            self.bytes_sent += nbytes
            self.times.sent(transport, nbytes)

    def forget(self, peer: ToPeer, error: BatonError) -> None:
        """The link is over: its transfers end, and the next offer to its peer makes a new one."""
        with self.lock:
            self._peers = {name: other for name, other in self._peers.items() if other is not peer}
            for key in self.book.keys_to(peer):
                self.book.end(key, State.FAILED, error)
                self.times.ended(key, "", 0.0, is_acked=False)
        self.notify()

    def _peer(self, route: DecodeRoute) -> ToPeer:
        name = (route.worker_id, route.incarnation)
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = ToPeer(self, route)
            peer.start()
        return peer
