"""The decode side of a simulated worker: production's book of what comes in, over the paths of `network`.

Implements `workers.kv_transfer.link.Inbox` step by step as `workers.kv_transfer.from_peer` does, without threads or
bytes. Leases that a dead peer lets run out are not modelled: its link breaks when its death is known.
"""

import math
from collections.abc import Callable, Sequence

from baton.errors import BatonError, CancelledError
from baton.v1.worker_pb2 import Submit
from cluster.router.workers import WorkerKey
from cluster.simulator.events import RANGE, TIMER
from cluster.simulator.network import PAYLOADS, Network
from cluster.simulator.peers import Passage
from workers.kv_transfer.handoff import LOOKS_PER_LEASE, RENEWALS_PER_LEASE, HandoffError, State, link_is_down
from workers.kv_transfer.incoming import ABORTED_HERE, ABORTED_THERE, Incoming
from workers.kv_transfer.link import InboxEvent, TransferKey
from workers.kv_transfer.outgoing import Closing, Span


class SimInbox:
    """`link.Inbox`: the decode side."""

    def __init__(self, *, network: Network, owner: WorkerKey, notify: Callable[[], None]) -> None:
        self.bytes_received = 0
        self._network = network
        self._owner = owner
        self._notify = notify
        self._book = self._new_book()
        self._landing_s: dict[TransferKey, float] = {}  # when the last range on its way is there
        self._expiries: dict[TransferKey, int] = {}  # events at which a lease may have run out

    def _new_book(self) -> Incoming[WorkerKey]:
        kv = self._network.kv
        return Incoming(payloads=PAYLOADS, lease_s=kv.lease_s, max_pending=kv.max_pending)

    @property
    def num_failed(self) -> int:
        return self._book.num_failed

    @property
    def measures(self) -> tuple[()]:
        return ()  # the simulator looks at times itself

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> None:
        peer = self._book.grant(key, block_ids, num_cached_tokens, state_ids)
        if peer is not None and (outbox := self._network.outboxes.get(peer)) is not None:
            self._network.send(self._owner, peer, outbox.ticketed, (key, num_cached_tokens))

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        """Ends the offer: no event follows."""
        if (peer := self._book.refuse(key)) is not None:
            self._forget(key)
            self._answer_failed(peer, key, error)

    def abort(self, key: TransferKey) -> None:
        if (peer := self._book.abort(key, self._network.queue.now_s)) is not None:
            self._answer_failed(peer, key, CancelledError(ABORTED_HERE))
            self._lose(key)

    def poll(self) -> list[InboxEvent]:
        return self._book.poll()

    def close(self) -> None:
        """Dead: what is on its way finds an empty book."""
        self._book = self._new_book()
        for number in self._expiries.values():
            self._network.queue.cancel(number)
        self._expiries.clear()

    # What the senders tell.

    def offered(self, peer: WorkerKey, key: TransferKey, submit: Submit, ingress_id: str) -> None:
        try:
            self._book.offer(key, peer, submit, ingress_id, self._network.queue.now_s)
        except BatonError as refusal:
            self._answer_failed(peer, key, refusal)
        else:
            self._notify()

    def expect(self, key: TransferKey, passage: Passage, spans: Sequence[Span], closing: Closing | None) -> None:
        """A range, or the closing word, is on its way; never before what was sent before it."""
        if passage.message_s > self._network.kv.lease_s * (1.0 - 1.0 / RENEWALS_PER_LEASE):
            self._miss_renewals(key, passage.first_s, passage.first_s + passage.message_s)
        arrival_s = max(passage.arrival_s, self._landing_s.get(key, 0.0))
        self._landing_s[key] = arrival_s
        if arrival_s == self._network.queue.now_s:
            self._land((key, spans, closing))
        else:
            self._network.queue.push(arrival_s, RANGE, 0, self._land, (key, spans, closing))

    def _land(self, message: tuple[TransferKey, Sequence[Span], Closing | None]) -> None:
        key, spans, closing = message
        peer = self._book.peer_of(key)
        if peer is None or self._network.inboxes.get(self._owner) is not self:
            return
        try:
            for span in spans:
                self._book.receive(key, span.index, span.start, span.end)
            if closing is None or not self._book.complete(key, *closing):
                return
        except HandoffError as fault:
            self._end(key, State.FAILED, fault)
            return
        self._forget(key)
        self._notify()
        if (outbox := self._network.outboxes.get(peer)) is not None:
            self._network.send(self._owner, peer, outbox.acked, key)

    def sender_aborted(self, key: TransferKey) -> None:
        if self._book.end(key, State.ABORTED, CancelledError(ABORTED_THERE)):
            self._lose(key)

    def peer_is_down(self, peer: WorkerKey) -> None:
        for key in self._book.keys_from(peer):
            if self._book.end(key, State.FAILED, link_is_down("from", peer)):
                self._lose(key)

    def peer_is_silent(self, peer: WorkerKey) -> None:
        """It is dead, and nobody knows."""
        for key in self._book.keys_from(peer):
            self._miss_renewals(key, self._network.queue.now_s, math.inf)

    def _miss_renewals(self, key: TransferKey, from_s: float, until_s: float) -> None:
        """None comes between the two: looks again when the lease may have run out before the next one."""
        if not self._book.is_live(key) or key in self._expiries:
            return
        lease_s, queue = self._network.kv.lease_s, self._network.queue
        every_s = lease_s / RENEWALS_PER_LEASE
        offered_s = self._book.expires_s(key) - lease_s
        renewed_s = offered_s + max(from_s - offered_s, 0.0) // every_s * every_s
        at_s = renewed_s + lease_s + lease_s / LOOKS_PER_LEASE
        if at_s < until_s:
            self._book.renew([key], renewed_s)
            self._expiries[key] = queue.push(max(at_s, queue.now_s), TIMER, 0, self._expire, key)

    def _expire(self, key: TransferKey) -> None:
        """What is still on its way is thrown away when it comes: nothing of it is written any more."""
        del self._expiries[key]
        peer, error = self._book.peer_of(key), self._book.overdue(key, self._network.queue.now_s)
        if peer is not None and error is not None:  # else its end is on its way
            self._book.end(key, State.EXPIRED, error)
            self._answer_failed(peer, key, error)
            self._tell_lost(key)

    def _end(self, key: TransferKey, state: State, error: BatonError) -> None:
        """Of our own accord: the peer is told."""
        peer = self._book.peer_of(key)
        if peer is not None and self._book.end(key, state, error):
            self._answer_failed(peer, key, error)
            self._lose(key)

    def _answer_failed(self, peer: WorkerKey, key: TransferKey, error: BatonError) -> None:
        if (outbox := self._network.outboxes.get(peer)) is not None:
            self._network.send(self._owner, peer, outbox.failed, (key, error))

    def _lose(self, key: TransferKey) -> None:
        """It has ended; the engine learns it when no range of it is on its way any more."""
        at_s = self._landing_s.get(key, 0.0)
        if at_s <= self._network.queue.now_s:
            self._tell_lost(key)
        else:
            self._network.queue.push(at_s, RANGE, 0, self._tell_lost, key)

    def _tell_lost(self, key: TransferKey) -> None:
        if self._book.lost(key):
            self._forget(key)
            self._notify()

    def _forget(self, key: TransferKey) -> None:
        self._landing_s.pop(key, None)
        if (number := self._expiries.pop(key, None)) is not None:
            self._network.queue.cancel(number)
