"""Puts the links of one rank together: of a worker's leader (of a gang, or alone), and of a gang's other ranks.

A leader's lanes and the messages of its followers are taken by one thread, which hands each event to the outbox or the
inbox that it is for.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from baton.errors import UnavailableError
from baton.v1.kv_pb2_grpc import KVTransferServicer
from workers.kv_transfer.follower_lanes import FollowerLanes
from workers.kv_transfer.gang_inbox import GangInbox
from workers.kv_transfer.gang_outbox import GangOutbox
from workers.kv_transfer.grpc_link import LinkServicer, make_inbox, make_outbox
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.lane_wire import Event
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Acked, Ended, Ticketed
from workers.kv_transfer.outbox import ThreadedOutbox
from workers.kv_transfer.rank_agent import RankAgent
from workers.kv_transfer.rank_lanes import LanesOfRank, RankLanes
from workers.model.contract import KVStore
from workers.model.places import ALONE, Degrees
from workers.spec import WorkerSpec

Tell = Callable[[int, bytes], None]  # (rank, message); in order, does not block


def _tell_nobody(rank: int, payload: bytes) -> None:
    raise AssertionError(f"there is no rank {rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Of which the links are: equal on all ranks of a gang."""

    spec: WorkerSpec
    incarnation: str
    fingerprint: str


class LeaderLinks:
    """What a leader's engine and gRPC server are given, and what its followers' messages go to.

    Args:
        notify: Called from any thread when `outbox` or `inbox` has news.
        fail: Called once these links are of no use any more, with what broke them: a bug. Must end the worker.
        degrees: Of the gang; of one rank: there is none.
        tell: To a follower; not called where there is none.
        num_steps: How many steps the followers were told so far; asked from the engine's thread.
    """

    def __init__(
        self,
        life: Life,
        store: KVStore,
        *,
        notify: Callable[[], None],
        fail: Callable[[BaseException], None],
        degrees: Degrees = ALONE,
        tell: Tell = _tell_nobody,
        num_steps: Callable[[], int] = lambda: 0,
    ) -> None:
        is_alone = degrees.size == 1
        plain_outbox, plain_inbox = _plain(life, store, notify) if is_alone else (None, None)
        self._items: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._own = _rank_lanes(life, store, 0, degrees, self._wake, plain_inbox)
        self._others = [FollowerLanes(partial(tell, rank)) for rank in range(1, degrees.size)]
        ranks: Sequence[LanesOfRank] = (self._own, *self._others)
        counts = store.head_counts
        self.outbox = GangOutbox(
            own=self._own,
            others=self._others,
            degrees=degrees,
            head_counts=counts,
            notify=notify,
            num_steps=num_steps,
            plain=plain_outbox,
        )
        self.inbox = GangInbox(
            ranks=ranks,
            head_counts=counts,
            lease_s=life.spec.kv.lease_s,
            notify=notify,
            num_steps=num_steps,
            plain=plain_inbox,
        )
        self.servicer: KVTransferServicer = LinkServicer(self._own)
        self._all_told = threading.Event()  # where they take links
        self._fail = fail
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="kv-lanes", daemon=True)
        self._thread.start()

    def on_message(self, rank: int, payload: bytes) -> None:
        """From follower `rank`, in order; from any thread."""
        self._items.put((rank, payload))

    def wait_for_addresses(self, timeout_s: float) -> Sequence[str]:
        """host:port of ranks 1, 2, ... Raises: UnavailableError: not all of them have told."""
        if self._others and not self._all_told.wait(timeout_s):
            silent = [rank for rank, other in enumerate(self._others, start=1) if not other.address]
            raise UnavailableError(f"ranks {silent} did not say within {timeout_s:g} s where they take KV")
        return [other.address for other in self._others]

    def close(self) -> None:
        """Ends every link of this rank. Idempotent."""
        self.outbox.close()
        self.inbox.close()
        self._own.close()
        self._closing = True
        self._items.put(None)
        self._thread.join()

    def _wake(self) -> None:
        self._items.put(None)

    def _run(self) -> None:
        try:
            while not self._closing:
                item = self._items.get()
                for lane, event in self._own.poll() if item is None else self._take(*item):
                    self._deliver(lane, event)
            for lane, event in self._own.poll():
                self._deliver(lane, event)
        except BaseException as bug:
            self._fail(bug)

    def _take(self, rank: int, payload: bytes) -> list[tuple[Lane, Event]]:
        events = self._others[rank - 1].take(payload)
        if all(other.address for other in self._others):
            self._all_told.set()
        return events

    def _deliver(self, lane: Lane, event: Event) -> None:
        if isinstance(event, Ticketed | Acked | Ended):
            self.outbox.on_event(lane, event)
        else:
            self.inbox.on_event(lane, event)


class FollowerLinks:
    """What a follower's loop and gRPC server are given.

    Args:
        tell: To the leader.
    """

    def __init__(
        self, life: Life, store: KVStore, rank: int, degrees: Degrees, *, tell: Callable[[bytes], None]
    ) -> None:
        self._lanes = _rank_lanes(life, store, rank, degrees, self._wake, None)
        self.agent = RankAgent(self._lanes, tell, timeout_s=life.spec.kv.lease_s)
        self.servicer: KVTransferServicer = LinkServicer(self._lanes)

    def on_message(self, rank: int, payload: bytes) -> None:
        """From the leader, in order."""
        self.agent.on_message(payload)

    def close(self) -> None:
        self._lanes.close()

    def _wake(self) -> None:
        self.agent.wake()


def _rank_lanes(
    life: Life,
    store: KVStore,
    rank: int,
    degrees: Degrees,
    notify: Callable[[], None],
    plain: ThreadedInbox | None,
) -> RankLanes:
    return RankLanes(
        rank=rank,
        place=degrees.place_of(rank),
        store=store,
        make_outbox=partial(_outbox, life, notify),
        make_inbox=partial(_inbox, life, notify),
        plain=plain,
    )


def _plain(life: Life, store: KVStore, notify: Callable[[], None]) -> tuple[ThreadedOutbox, ThreadedInbox]:
    """The links to and from workers that are no gangs, of one that is none."""
    return _outbox(life, notify, store, None), _inbox(life, notify, store, None)


def _outbox(life: Life, notify: Callable[[], None], store: KVStore, lane: Lane | None) -> ThreadedOutbox:
    return make_outbox(
        runner_store=store,
        spec=life.spec,
        incarnation=life.incarnation,
        fingerprint=life.fingerprint,
        notify=notify,
        lane=lane,
    )


def _inbox(life: Life, notify: Callable[[], None], store: KVStore, lane: Lane | None) -> ThreadedInbox:
    inbox, _ = make_inbox(
        runner_store=store,
        spec=life.spec,
        incarnation=life.incarnation,
        fingerprint=life.fingerprint,
        notify=notify,
        lane=lane,
    )
    return inbox
