"""The links of one rank of a gang: an outbox per lane that it sends on, an inbox per lane that it receives on.

Each works on its part of the rank's store and knows of no other. What of them makes one transfer is the leader's
business (`gang_outbox`, `gang_inbox`). All methods are thread-safe and never block on the network.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from baton.errors import BatonError
from baton.v1.kv_pb2 import Handshake, HandshakeReply
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.from_peer import FromPeer, Reply
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.lane_wire import Event, own_lane
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Acked, Ended, TransferKey
from workers.kv_transfer.measures import ByTransport
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.model.contract import KVStore
from workers.model.places import Place, undivided

MakeOutbox = Callable[[KVStore, Lane], ThreadedOutbox]
MakeInbox = Callable[[KVStore, Lane], ThreadedInbox]


class LanesOfRank(Protocol):
    """What a leader wants of one rank, itself included."""

    @property
    def bytes_sent(self) -> int: ...

    @property
    def bytes_received(self) -> int: ...

    @property
    def receiving_measures(self) -> list[ByTransport]:
        """As far as they are known here."""
        ...

    def offer(
        self, lane: Lane, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int
    ) -> None: ...

    def complete(
        self,
        lane: Lane,
        key: TransferKey,
        num_tokens: int,
        first_tokens: Sequence[tuple[int, int]],
        num_steps: int,
    ) -> None:
        """When the rank has done `num_steps` of the leader's steps."""
        ...

    def withdraw(self, lane: Lane, key: TransferKey) -> None: ...

    def grant(
        self,
        lane: Lane,
        key: TransferKey,
        block_ids: Sequence[int],
        num_cached_tokens: int,
        state_ids: Sequence[int],
        num_steps: int,
    ) -> None:
        """When the rank has done `num_steps` of the leader's steps."""
        ...

    def refuse(self, lane: Lane, key: TransferKey, error: BatonError) -> None: ...

    def abort(self, lane: Lane, key: TransferKey, error: BatonError | None) -> None:
        """`error`: what the sender is told; None: that the request was aborted here."""
        ...


class RankLanes:
    """Implements `LanesOfRank` for the rank of this process.

    Args:
        rank: Of the gang's.
        place: Whose heads it holds.
        plain: Takes the links of workers that are no gangs; None: this rank is one of several.
    """

    def __init__(
        self,
        *,
        rank: int,
        place: Place,
        store: KVStore,
        make_outbox: MakeOutbox,
        make_inbox: MakeInbox,
        plain: ThreadedInbox | None = None,
    ) -> None:
        self.rank, self.place = rank, place
        self._store = store
        self._make_outbox, self._make_inbox = make_outbox, make_inbox
        self._plain = plain
        self._lock = threading.Lock()  # over all below
        self._outboxes: dict[Lane, ThreadedOutbox] = {}
        self._inboxes: dict[Lane, ThreadedInbox] = {}
        self._sending: dict[TransferKey, tuple[Lane, ...]] = {}
        self._is_closed = False

    @property
    def bytes_sent(self) -> int:
        return sum(outbox.bytes_sent for outbox in list(self._outboxes.values()))

    @property
    def bytes_received(self) -> int:
        return sum(inbox.bytes_received for inbox in list(self._inboxes.values()))

    @property
    def num_active(self) -> int:
        """Transfers on all lanes."""
        sending = sum(outbox.num_active for outbox in list(self._outboxes.values()))
        return sending + sum(inbox.num_active for inbox in list(self._inboxes.values()))

    @property
    def sending_measures(self) -> list[ByTransport]:
        return [each for outbox in list(self._outboxes.values()) for each in outbox.measures]

    @property
    def receiving_measures(self) -> list[ByTransport]:
        return [each for inbox in list(self._inboxes.values()) for each in inbox.measures]

    def poll(self) -> list[tuple[Lane, Event]]:
        with self._lock:
            events: list[tuple[Lane, Event]] = []
            for lane, outbox in self._outboxes.items():
                for event in outbox.poll():
                    events.append((lane, event))
                    if isinstance(event, Acked | Ended):
                        self._forget(lane, event.key)
            for lane, inbox in self._inboxes.items():
                events += [(lane, news) for news in inbox.poll()]
            return events

    def accept(self, handshake: Handshake, reply: Reply) -> tuple[HandshakeReply, FromPeer | None]:
        """As `ThreadedInbox.accept`, of the lane that is meant."""
        if not handshake.HasField("lane"):
            if self._plain is not None:
                return self._plain.accept(handshake, reply)
            return HandshakeReply(refusal=f"lane: none, but this is {self.place}; name one"), None
        lane = own_lane(handshake.lane)
        if lane.receiver != self.place or self.rank != self.place.rank or lane.turn.number >= lane.turn.num_turns:
            return HandshakeReply(refusal=f"lane: {lane} is meant, but this is {self.place}; offer anew"), None
        if heads := undivided(lane.sender.degree, self._store.head_counts):
            return HandshakeReply(refusal=f"lane: {lane.sender.degree} ranks cannot share {heads} heads"), None
        return self._inbox(lane).accept(handshake, reply)

    # Out.

    def offer(
        self, lane: Lane, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int
    ) -> None:
        with self._lock:
            if (outbox := self._outboxes.get(lane)) is None:
                outbox = self._outboxes[lane] = self._make_outbox(self._store.part(lane.heads, lane.turn), lane)
                if self._is_closed:
                    outbox.close()
            self._sending[key] = (*self._sending.get(key, ()), lane)
        outbox.offer(key, submit, ingress_id, route, num_tokens)

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        """As `Outbox.computed`, for the lanes of this rank."""
        for lane in self._sending.get(key, ()):
            self._outboxes[lane].computed(key, layer, num_tokens, block_ids, state_ids)

    def complete(
        self,
        lane: Lane,
        key: TransferKey,
        num_tokens: int,
        first_tokens: Sequence[tuple[int, int]],
        num_steps: int = 0,
    ) -> None:
        """Here and now: whoever calls has done the steps."""
        if (outbox := self._outboxes.get(lane)) is not None:
            outbox.complete(key, num_tokens, first_tokens)

    def withdraw(self, lane: Lane, key: TransferKey) -> None:
        if (outbox := self._outboxes.get(lane)) is not None:
            outbox.abort(key)

    # In.

    def grant(
        self,
        lane: Lane,
        key: TransferKey,
        block_ids: Sequence[int],
        num_cached_tokens: int,
        state_ids: Sequence[int],
        num_steps: int = 0,
    ) -> None:
        """Here and now, too."""
        self._inbox(lane).grant(key, block_ids, num_cached_tokens, state_ids)

    def refuse(self, lane: Lane, key: TransferKey, error: BatonError) -> None:
        self._inbox(lane).refuse(key, error)

    def abort(self, lane: Lane, key: TransferKey, error: BatonError | None) -> None:
        self._inbox(lane).abort(key, error)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            outboxes, inboxes = list(self._outboxes.values()), list(self._inboxes.values())
        for outbox in outboxes:
            outbox.close()
        for inbox in inboxes:
            inbox.close()

    def _inbox(self, lane: Lane) -> ThreadedInbox:
        with self._lock:
            if (inbox := self._inboxes.get(lane)) is None:
                inbox = self._inboxes[lane] = self._make_inbox(self._store.part(lane.heads, lane.turn), lane)
                if self._is_closed:
                    inbox.close()
            return inbox

    def _forget(self, lane: Lane, key: TransferKey) -> None:
        rest = tuple(other for other in self._sending.get(key, ()) if other != lane)
        if rest:
            self._sending[key] = rest
        else:
            self._sending.pop(key, None)
