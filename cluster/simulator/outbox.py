"""The prefill side of a simulated worker: production's book of what goes out, over the paths of `network`.

Implements `workers.kv_transfer.link.Outbox` step by step as `workers.kv_transfer.to_peer` does, without threads or
bytes. A push is one chunk, all its layers in one range: layers leave while the chunk is computed, so that only the last
one's share is left when it is done.
"""

from collections.abc import Callable, Sequence

from baton.errors import BatonError
from baton.v1.worker_pb2 import DecodeRoute, Submit
from cluster.router.workers import WorkerKey
from cluster.simulator.events import TIMER
from cluster.simulator.network import PAYLOADS, Network
from workers.kv_transfer.handoff import State, link_is_down
from workers.kv_transfer.link import OutboxEvent, TransferKey
from workers.kv_transfer.outgoing import Outgoing

ALL_BYTES = 1 << 62


class SimOutbox:
    """`link.Outbox`: the prefill side.

    Args:
        notify: Called when `poll` has news.
    """

    def __init__(
        self,
        *,
        network: Network,
        owner: WorkerKey,
        token_bytes: int,
        state_bytes: int,
        num_layers: int,
        notify: Callable[[], None],
    ) -> None:
        self.bytes_sent = 0
        self._network = network
        self._owner = owner
        self._token_bytes = token_bytes
        self._state_bytes = state_bytes
        self._num_layers = num_layers
        self._notify = notify
        self._book = self._new_book()
        self._ticketed_s: dict[TransferKey, float] = {}
        self._timers: dict[TransferKey, int] = {}  # wait for an ack
        self._fresh: dict[TransferKey, None] = {}  # computed since the last `flush`

    def _new_book(self) -> Outgoing[WorkerKey]:
        kv = self._network.kv
        return Outgoing(payloads=PAYLOADS, lease_s=kv.lease_s, bulk=kv.push == "bulk")

    @property
    def num_failed(self) -> int:
        return self._book.num_failed

    @property
    def measures(self) -> tuple[()]:
        return ()  # the simulator looks at times itself

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int) -> None:
        peer = WorkerKey(route.worker_id, route.incarnation)
        if peer in self._network.known_dead:
            self._book.refuse(key, link_is_down("to", peer))
            self._notify()
            return
        now_s = self._network.queue.now_s
        self._book.offer(key, peer, num_tokens=num_tokens, timeout_s=submit.timeout_s, now_s=now_s)
        self._network.send(self._owner, peer, self._deliver_offer, (peer, key, submit, ingress_id))

    def _deliver_offer(self, offer: tuple[WorkerKey, TransferKey, Submit, str]) -> None:
        peer, key, submit, ingress_id = offer
        inbox = self._network.inboxes.get(peer)
        if inbox is not None and self._owner in self._network.outboxes:
            inbox.offered(self._owner, key, submit, ingress_id)

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        if key in self._book:
            self._book.computed(key, layer, num_tokens, block_ids, state_ids)
            self._fresh[key] = None

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        if key in self._book:
            self._book.complete(key, num_tokens, first_tokens)
            self._fresh[key] = None

    def flush(self, began_s: float) -> None:
        """After a step: pushes what it computed, which has begun to leave with the step's first layer."""
        fresh, self._fresh = self._fresh, {}
        for key in fresh:
            self._push(key, began_s)

    def abort(self, key: TransferKey) -> None:
        if self._book.abort(key):
            self._end(key, State.ABORTED, None)

    def poll(self) -> list[OutboxEvent]:
        return self._book.poll()

    def close(self) -> None:
        """Dead: what is on its way finds an empty book."""
        self._book = self._new_book()
        for number in self._timers.values():
            self._network.queue.cancel(number)
        self._timers.clear()

    # What the receivers answer.

    def ticketed(self, ticket: tuple[TransferKey, int]) -> None:
        key, num_cached_tokens = ticket
        if self._book.ticket(key, num_cached_tokens):
            self._ticketed_s[key] = self._network.queue.now_s
            self._push(key, self._network.queue.now_s)

    def acked(self, key: TransferKey) -> None:
        if self._network.acks_to_lose[self._owner.worker_id]:
            self._network.acks_to_lose[self._owner.worker_id] -= 1
        else:
            self._forget(key, State.COMPLETE, None)

    def failed(self, failure: tuple[TransferKey, BatonError]) -> None:
        key, error = failure
        self._forget(key, State.FAILED, error)

    def peer_is_down(self, peer: WorkerKey) -> None:
        for key in self._book.keys_to(peer):
            self._forget(key, State.FAILED, link_is_down("to", peer))

    def _push(self, key: TransferKey, from_s: float) -> None:
        peer = self._book.peer_of(key)
        if peer is None:
            return
        network = self._network
        now_s = network.queue.now_s
        spans = self._book.take(key, ALL_BYTES)
        closing = self._book.close(key, now_s)
        if not (spans or closing):
            return
        num_bytes = sum(span.end - span.start for span in spans) * self._token_bytes
        num_bytes += self._state_bytes if closing is not None else 0
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
        error = self._book.overdue(key, self._network.queue.now_s)
        assert error is not None, f"{key}: a lease has passed since its closing word"
        self._end(key, State.EXPIRED, error)

    def _end(self, key: TransferKey, state: State, error: BatonError | None) -> None:
        """Of our own accord: the peer is told."""
        peer = self._book.peer_of(key)
        if peer is not None and self._forget(key, state, error):
            self._network.send(self._owner, peer, self._deliver_abort, (peer, key))

    def _deliver_abort(self, abort: tuple[WorkerKey, TransferKey]) -> None:
        peer, key = abort
        inbox = self._network.inboxes.get(peer)
        if inbox is not None:
            inbox.sender_aborted(key)

    def _forget(self, key: TransferKey, state: State, error: BatonError | None) -> bool:
        """False: it has ended before."""
        if not self._book.end(key, state, error):
            return False
        self._ticketed_s.pop(key, None)
        self._fresh.pop(key, None)
        if (number := self._timers.pop(key, None)) is not None:
            self._network.queue.cancel(number)
        self._notify()
        return True
