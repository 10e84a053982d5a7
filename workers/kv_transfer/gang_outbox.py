"""The prefill side of a gang, as its leader's engine sees it: one transfer, however many ranks take part.

Also of a worker that is no gang: its transfers to others like it go straight to the one link they need (`plain`).
Invariant: the book is read and changed, and ranks are told, under `lock`; so each rank hears of a transfer in order.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

from baton.errors import ConfigError
from baton.v1.kv_pb2 import HandoverChunk, StepHandover
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.follower_lanes import FollowerLanes
from workers.kv_transfer.gang_outgoing import GangOutgoing
from workers.kv_transfer.lanes import Lane, lanes
from workers.kv_transfer.link import OutboxEvent, Push, TransferKey
from workers.kv_transfer.measures import OTHERS, ByTransport, LinkMeasures
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.kv_transfer.rank_lanes import LanesOfRank, RankLanes
from workers.kv_transfer.wire import wire_key
from workers.model.places import Degrees, undivided


class GangOutbox:
    """Implements `link.Outbox`.

    Args:
        own: The leader's lanes.
        others: Those of ranks 1, 2, ...
        degrees: Of the gang.
        head_counts: Of the model.
        num_steps: How many steps the other ranks were told so far; asked from the engine's thread.
        notify: Called from any thread when `poll` has news.
    """

    def __init__(
        self,
        *,
        own: RankLanes,
        others: Sequence[FollowerLanes],
        degrees: Degrees,
        head_counts: Iterable[int],
        notify: Callable[[], None],
        num_steps: Callable[[], int],
        plain: ThreadedOutbox | None = None,
    ) -> None:
        self._num_steps = num_steps
        self._own, self._others = own, others
        self._ranks: Sequence[LanesOfRank] = (own, *others)
        self._degrees = degrees
        self._head_counts = frozenset(head_counts)
        self._notify = notify
        self._plain = plain
        self._lock = threading.Lock()  # over all below
        self._book = GangOutgoing()

    @property
    def bytes_sent(self) -> int:
        plain = self._plain.bytes_sent if self._plain is not None else 0
        return plain + sum(rank.bytes_sent for rank in self._ranks)

    @property
    def num_active(self) -> int:
        return len(self._book) + (self._plain.num_active if self._plain is not None else 0)

    @property
    def num_failed(self) -> int:
        return self._book.num_failed + (self._plain.num_failed if self._plain is not None else 0)

    @property
    def measures(self) -> Sequence[ByTransport]:
        """Each lane of a transfer counts as one; of other ranks' lanes, only bytes are known."""
        plain = self._plain.measures if self._plain is not None else ()
        others = LinkMeasures(bytes_sent=sum(rank.bytes_sent for rank in self._others))
        return [*plain, *self._own.sending_measures, *([{OTHERS: others}] if self._others else ())]

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int) -> None:
        degree = max(1, len(route.rank_addresses))
        if self._plain is not None and degree == 1:
            self._plain.offer(key, submit, ingress_id, route, num_tokens)
            return
        if heads := undivided(degree, self._head_counts):
            with self._lock:
                self._book.refuse(key, ConfigError(f"{route.worker_id}: {degree} ranks cannot share {heads} heads"))
            self._notify()
            return
        made = lanes(self._degrees, degree, self._head_counts)
        without_prompt = Submit(request_id=submit.request_id, attempt=submit.attempt, timeout_s=submit.timeout_s)
        with self._lock:
            self._book.offer(key, made)
            for lane in made:
                told = submit if lane.joins_leaders else without_prompt
                route_there = _route_to(lane, route)
                self._ranks[lane.sending_rank].offer(lane, key, told, ingress_id, route_there, num_tokens)

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        """On this rank; the others hear it from their own runners, by `note`."""
        if self._plain is not None and key not in self._book:  # one look into a dict, which needs no lock
            self._plain.computed(key, layer, num_tokens, block_ids, state_ids)
        else:
            self._own.computed(key, layer, num_tokens, block_ids, state_ids)

    def note(self, on_layer: Callable[[int], None] | None) -> bytes:
        """What the other ranks must be told with a step that this is called in, for their `RankAgent`; empty: nothing.

        From the engine's thread.
        """
        if not isinstance(on_layer, Push) or not self._others:
            return b""
        chunks = [
            HandoverChunk(key=wire_key(key), num_tokens=num_tokens, block_ids=block_ids, state_ids=state_ids)
            for key, num_tokens, block_ids, state_ids in on_layer.going
        ]
        with self._lock:
            num_commands = [0, *(rank.num_commands for rank in self._others)]
        return StepHandover(num_commands=num_commands, chunks=chunks).SerializeToString()

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        if self._plain is not None and key not in self._book:
            self._plain.complete(key, num_tokens, first_tokens)
            return
        with self._lock:
            for lane in self._book.lanes(key):
                rank = self._ranks[lane.sending_rank]
                rank.complete(lane, key, num_tokens, first_tokens, self._num_steps())

    def abort(self, key: TransferKey) -> None:
        if self._plain is not None and key not in self._book:
            self._plain.abort(key)
            return
        with self._lock:
            self._withdraw(key, self._book.abort(key))

    def on_event(self, lane: Lane, event: OutboxEvent) -> None:
        """A lane has told."""
        with self._lock:
            self._withdraw(event.key, self._book.on_event(lane, event))
        self._notify()

    def poll(self) -> list[OutboxEvent]:
        with self._lock:
            events = self._book.poll()
        return events + self._plain.poll() if self._plain is not None else events

    def close(self) -> None:
        """The lanes are closed by whoever made them."""
        if self._plain is not None:
            self._plain.close()

    def _withdraw(self, key: TransferKey, withdrawn: Iterable[Lane]) -> None:
        for lane in withdrawn:
            self._ranks[lane.sending_rank].withdraw(lane, key)


def _route_to(lane: Lane, route: DecodeRoute) -> DecodeRoute:
    addresses = route.rank_addresses or [route.address]
    address = addresses[lane.receiver.rank]
    return DecodeRoute(worker_id=route.worker_id, incarnation=route.incarnation, address=address)
