"""KV links between simulated workers: the production ledgers, over the paths of `network`.

Implements `workers.kv_transfer.link`'s Outbox and Inbox step by step as `sender.py` and `receiver.py` do, without
threads or bytes. A push is one chunk, all its layers in one range: layers leave while the chunk is computed, so that
only the last one's share is left when it is done. Leases that a dead peer lets run out are not modelled: its link
breaks when its death is known.
"""

import math
from collections.abc import Callable, Sequence

from baton.errors import BatonError, CancelledError, InternalError, OverloadedError, UnavailableError
from baton.v1.worker_pb2 import DecodeRoute, Submit
from cluster.router.workers import WorkerKey
from cluster.simulator.events import RANGE, TIMER
from cluster.simulator.network import Network, Passage
from workers.kv_transfer.handoff import (
    LOOKS_PER_LEASE,
    RENEWALS_PER_LEASE,
    Closing,
    HandoffError,
    ReceiveLedger,
    SendLedger,
    Span,
    State,
    Tombstones,
)
from workers.kv_transfer.link import (
    Acked,
    Arrived,
    Ended,
    InboxEvent,
    Lost,
    Offered,
    OutboxEvent,
    TransferKey,
)
from workers.model.contract import PayloadSpec

ALL_BYTES = 1 << 62
# One layer stands for all: they are pushed, and arrive, together. What its tokens take is the network's business.
PAYLOADS = (PayloadSpec(layer=0, unit_nbytes=1, layout="simulated"),)


class SimOutbox:
    """`link.Outbox`: the prefill side.

    Args:
        notify: Called when `poll` has news.
    """

    def __init__(
        self, *, network: Network, owner: WorkerKey, token_bytes: int, num_layers: int, notify: Callable[[], None]
    ) -> None:
        self.bytes_sent = 0
        self.num_failed = 0
        self._network = network
        self._owner = owner
        self._token_bytes = token_bytes
        self._num_layers = num_layers
        self._notify = notify
        self._ledgers: dict[WorkerKey, SendLedger] = {}
        self._peer_of: dict[TransferKey, WorkerKey] = {}
        self._ticketed_s: dict[TransferKey, float] = {}
        self._timers: dict[TransferKey, int] = {}  # wait for an ack
        self._fresh: dict[TransferKey, None] = {}  # computed since the last `flush`
        self._events: list[OutboxEvent] = []

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int) -> None:
        assert key not in self._peer_of, f"{key} is offered already"
        peer = WorkerKey(route.worker_id, route.incarnation)
        kv = self._network.kv
        if peer not in self._ledgers:
            self._ledgers[peer] = SendLedger(payloads=PAYLOADS, lease_s=kv.lease_s, bulk=kv.push == "bulk")
        if peer in self._network.known_dead:
            self._events.append(Ended(key, UnavailableError(f"the link to {peer.worker_id} is down")))
            self.num_failed += 1
            self._notify()
            return
        now_s = self._network.queue.now_s
        self._peer_of[key] = peer
        self._ledgers[peer].offer(key, num_tokens, now_s + (submit.timeout_s or kv.lease_s))
        self._network.send(self._owner, peer, self._deliver_offer, (peer, key, submit, ingress_id))

    def _deliver_offer(self, offer: tuple[WorkerKey, TransferKey, Submit, str]) -> None:
        peer, key, submit, ingress_id = offer
        inbox = self._network.inboxes.get(peer)
        if inbox is not None and self._owner in self._network.outboxes:
            inbox.welcome(self._owner, key, submit, ingress_id)

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        peer = self._peer_of.get(key)
        if peer is not None:
            self._ledgers[peer].computed(key, layer, num_tokens, block_ids, state_ids)
            self._fresh[key] = None

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        peer = self._peer_of.get(key)
        if peer is not None:
            self._ledgers[peer].complete(key, num_tokens, first_tokens)
            self._fresh[key] = None

    def flush(self, began_s: float) -> None:
        """After a step: pushes what it computed, which has begun to leave with the step's first layer."""
        fresh, self._fresh = self._fresh, {}
        for key in fresh:
            self._push(key, began_s)

    def abort(self, key: TransferKey) -> None:
        peer = self._peer_of.get(key)
        if peer is not None and self._end(key, State.ABORTED, Ended(key, None)):
            self._network.send(self._owner, peer, self._deliver_abort, (peer, key))

    def _deliver_abort(self, abort: tuple[WorkerKey, TransferKey]) -> None:
        peer, key = abort
        inbox = self._network.inboxes.get(peer)
        if inbox is not None:
            inbox.sender_aborted(key)

    def poll(self) -> list[OutboxEvent]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._ledgers.clear()
        self._peer_of.clear()
        for number in self._timers.values():
            self._network.queue.cancel(number)
        self._timers.clear()

    # What the receivers answer.

    def ticketed(self, ticket: tuple[TransferKey, int]) -> None:
        key, num_cached_tokens = ticket
        peer = self._peer_of.get(key)
        if peer is not None and self._ledgers[peer].ticket(key, num_cached_tokens):
            self._ticketed_s[key] = self._network.queue.now_s
            self._push(key, self._network.queue.now_s)

    def acked(self, key: TransferKey) -> None:
        if self._network.acks_to_lose[self._owner.worker_id]:
            self._network.acks_to_lose[self._owner.worker_id] -= 1
        else:
            self._end(key, State.COMPLETE, Acked(key))

    def failed(self, failure: tuple[TransferKey, BatonError]) -> None:
        key, error = failure
        self._end(key, State.FAILED, Ended(key, error))

    def peer_is_down(self, peer: WorkerKey) -> None:
        error = UnavailableError(f"the link to {peer.worker_id} is down")
        for key in [key for key, other in self._peer_of.items() if other == peer]:
            self._end(key, State.FAILED, Ended(key, error))
        self._ledgers.pop(peer, None)

    def _push(self, key: TransferKey, from_s: float) -> None:
        peer = self._peer_of.get(key)
        if peer is None:
            return
        network = self._network
        ledger, now_s = self._ledgers[peer], network.queue.now_s
        spans = ledger.take(key, ALL_BYTES)
        closing = ledger.close(key, now_s)
        if not (spans or closing):
            return
        num_bytes = sum(span.end - span.start for span in spans) * self._token_bytes
        inbox = network.inboxes.get(peer)
        last_s = now_s
        if inbox is not None:
            self.bytes_sent += num_bytes
            network.bytes_sent += num_bytes
            first_layer_s = from_s + (now_s - from_s) / self._num_layers
            from_s = now_s if network.kv.push == "bulk" else max(first_layer_s, self._ticketed_s.get(key, 0.0))
            passage = network.book(self._owner, peer, num_bytes, from_s, 1.0 / self._num_layers)
            last_s = max(passage.last_s, now_s)
        if closing is not None:
            at_s = last_s + network.kv.lease_s
            self._timers[key] = network.queue.push(at_s, TIMER, 0, self._ack_is_overdue, key)
        if inbox is not None:
            inbox.expect(key, passage, spans, closing)

    def _ack_is_overdue(self, key: TransferKey) -> None:
        del self._timers[key]
        peer = self._peer_of[key]
        waited = f"an ack for {self._network.kv.lease_s:g} s"
        error = UnavailableError(f"{key.request_id} waited for {waited} of {peer.worker_id} in vain")
        if self._end(key, State.EXPIRED, Ended(key, error)):
            self._network.send(self._owner, peer, self._deliver_abort, (peer, key))

    def _end(self, key: TransferKey, state: State, event: OutboxEvent) -> bool:
        """False: it has ended before."""
        peer = self._peer_of.get(key)
        if peer is None or not self._ledgers[peer].end(key, state):
            return False
        del self._peer_of[key]
        self._ticketed_s.pop(key, None)
        self._fresh.pop(key, None)
        if (number := self._timers.pop(key, None)) is not None:
            self._network.queue.cancel(number)
        self.num_failed += isinstance(event, Ended) and event.error is not None
        self._events.append(event)
        self._notify()
        return True


class SimInbox:
    """`link.Inbox`: the decode side."""

    def __init__(self, *, network: Network, owner: WorkerKey, notify: Callable[[], None]) -> None:
        self.bytes_received = 0
        self.num_failed = 0
        self.tombstones = Tombstones(lease_s=network.kv.lease_s)
        self._network = network
        self._owner = owner
        self._notify = notify
        self._ledgers: dict[WorkerKey, ReceiveLedger] = {}
        self._peer_of: dict[TransferKey, WorkerKey] = {}
        self._landing_s: dict[TransferKey, float] = {}  # when the last range on its way is there
        self._expiries: dict[TransferKey, int] = {}  # events at which a lease may have run out
        self._leaving: set[TransferKey] = set()  # ended; `Lost` follows when nothing is on its way
        self._events: list[InboxEvent] = []

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> None:
        peer = self._peer_of.get(key)
        if peer is None or not self._ledger(peer).grant(key, block_ids, num_cached_tokens, state_ids):
            return
        if (outbox := self._network.outboxes.get(peer)) is not None:
            self._network.send(self._owner, peer, outbox.ticketed, (key, num_cached_tokens))

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        """Ends the offer: no event follows."""
        peer = self._peer_of.get(key)
        if peer is not None:
            self._ledger(peer).end(key, State.FAILED)
            self._drop(key)
            self._answer_failed(peer, key, error)
        self._events = [event for event in self._events if not (isinstance(event, Lost) and event.key == key)]

    def abort(self, key: TransferKey) -> None:
        self.tombstones.bury(key, self._network.queue.now_s)
        peer = self._peer_of.get(key)
        if peer is None:  # it has arrived, and nobody has seen that
            self._events = [
                Lost(key, None) if isinstance(event, Arrived) and event.key == key else event for event in self._events
            ]
        elif key not in self._leaving:
            self._answer_failed(peer, key, CancelledError("the decode worker aborted the request"))
            self._lose(key, State.ABORTED, None)

    def poll(self) -> list[InboxEvent]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._ledgers.clear()
        self._peer_of.clear()
        for number in self._expiries.values():
            self._network.queue.cancel(number)
        self._expiries.clear()

    # What the senders tell.

    def welcome(self, peer: WorkerKey, key: TransferKey, submit: Submit, ingress_id: str) -> None:
        now_s = self._network.queue.now_s
        why = self.tombstones.why_refused(key, now_s)
        if why is not None:
            self._answer_failed(peer, key, CancelledError(f"{key.request_id}: {why}"))
            return
        num_pending = sum(ledger.num_pending for ledger in self._ledgers.values())
        max_pending = self._network.kv.max_pending
        if num_pending >= max_pending:
            text = f"{num_pending} offers wait here for blocks; kv.max_pending is {max_pending}"
            self._answer_failed(peer, key, OverloadedError(text))
            return
        self._ledger(peer).offer(key, now_s)
        self.tombstones.saw(key, now_s)
        self._peer_of[key] = peer
        self._events.append(Offered(key, submit, ingress_id))
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
        peer = self._peer_of.get(key)
        if peer is None or self._network.inboxes.get(self._owner) is not self:
            return
        ledger = self._ledger(peer)
        try:
            for span in spans:
                ledger.receive(key, 0, span.start, span.end)
            if closing is None or not ledger.complete(key, closing.num_tokens, closing.num_ranges):
                return
        except HandoffError as fault:
            error = InternalError(f"{key.request_id}: {fault}")
            self._answer_failed(peer, key, error)
            self._lose(key, State.FAILED, error)
            return
        self._drop(key)
        self._events.append(Arrived(key, closing.num_tokens, closing.first_tokens))
        self._notify()
        if (outbox := self._network.outboxes.get(peer)) is not None:
            self._network.send(self._owner, peer, outbox.acked, key)

    def sender_aborted(self, key: TransferKey) -> None:
        if key in self._peer_of and key not in self._leaving:
            self._lose(key, State.ABORTED, CancelledError("the prefill worker ended the transfer"))

    def peer_is_down(self, peer: WorkerKey) -> None:
        error = UnavailableError(f"the link from {peer.worker_id} is down")
        for key in [key for key, other in self._peer_of.items() if other == peer and key not in self._leaving]:
            self._lose(key, State.FAILED, error)

    def peer_is_silent(self, peer: WorkerKey) -> None:
        """It is dead, and nobody knows."""
        for key in [key for key, other in self._peer_of.items() if other == peer]:
            self._miss_renewals(key, self._network.queue.now_s, math.inf)

    def _miss_renewals(self, key: TransferKey, from_s: float, until_s: float) -> None:
        """None comes between the two: looks again when the lease may have run out before the next one."""
        peer = self._peer_of.get(key)
        if peer is None or key in self._leaving or key in self._expiries:
            return
        ledger, lease_s, queue = self._ledger(peer), self._network.kv.lease_s, self._network.queue
        every_s = lease_s / RENEWALS_PER_LEASE
        offered_s = ledger.expires_s(key) - lease_s
        renewed_s = offered_s + max(from_s - offered_s, 0.0) // every_s * every_s
        at_s = renewed_s + lease_s + lease_s / LOOKS_PER_LEASE
        if at_s < until_s:
            ledger.renew([key], renewed_s)
            self._expiries[key] = queue.push(max(at_s, queue.now_s), TIMER, 0, self._expire, key)

    def _expire(self, key: TransferKey) -> None:
        """What is still on its way is thrown away when it comes: nothing of it is written any more."""
        del self._expiries[key]
        peer = self._peer_of[key]
        if key not in self._ledger(peer).overdue(self._network.queue.now_s):  # its end is on its way
            return
        lease_s = self._network.kv.lease_s
        error = UnavailableError(f"{key.request_id}: not renewed by {peer.worker_id} within {lease_s:g} s")
        self._ledger(peer).end(key, State.EXPIRED)
        self._answer_failed(peer, key, error)
        self._tell_lost((key, error))

    def _answer_failed(self, peer: WorkerKey, key: TransferKey, error: BatonError) -> None:
        if (outbox := self._network.outboxes.get(peer)) is not None:
            self._network.send(self._owner, peer, outbox.failed, (key, error))

    def _lose(self, key: TransferKey, state: State, error: BatonError | None) -> None:
        """Ends the transfer; the engine learns it when no range of it is on its way any more."""
        if not self._ledger(self._peer_of[key]).end(key, state):
            return
        self._leaving.add(key)
        at_s = self._landing_s.get(key, 0.0)
        if at_s <= self._network.queue.now_s:
            self._tell_lost((key, error))
        else:
            self._network.queue.push(at_s, RANGE, 0, self._tell_lost, (key, error))

    def _tell_lost(self, loss: tuple[TransferKey, BatonError | None]) -> None:
        key, error = loss
        if key not in self._peer_of:
            return
        self._drop(key)
        self.num_failed += error is not None
        unseen = [event for event in self._events if isinstance(event, Offered) and event.key == key]
        if unseen:
            self._events.remove(unseen[0])
        else:
            self._events.append(Lost(key, error))
        self._notify()

    def _drop(self, key: TransferKey) -> None:
        peer = self._peer_of.pop(key, None)
        if peer is not None and not self._ledger(peer):
            del self._ledgers[peer]  # of a thousand peers, most send nothing now
        self._landing_s.pop(key, None)
        self._leaving.discard(key)
        if (number := self._expiries.pop(key, None)) is not None:
            self._network.queue.cancel(number)

    def _ledger(self, peer: WorkerKey) -> ReceiveLedger:
        if peer not in self._ledgers:
            self._ledgers[peer] = ReceiveLedger(payloads=PAYLOADS, lease_s=self._network.kv.lease_s)
        return self._ledgers[peer]
