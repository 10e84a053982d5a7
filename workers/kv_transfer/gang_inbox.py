"""The decode side of a gang, as its leader's engine sees it: one transfer, however many ranks take part.

Also of a worker that is no gang: transfers from others like it come straight from the one link they need (`plain`).
Invariant: the book is read and changed, and ranks are told, under `lock`; so each rank hears of a transfer in order.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from baton.errors import BatonError
from workers.kv_transfer.gang_incoming import Command, GangIncoming, Grant, Refuse
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.lanes import Lane, lanes
from workers.kv_transfer.link import InboxEvent, TransferKey
from workers.kv_transfer.measures import OTHERS, ByTransport, LinkMeasures
from workers.kv_transfer.rank_lanes import LanesOfRank


class GangInbox:
    """Implements `link.Inbox`.

    Args:
        ranks: The lanes of each rank, the leader's first.
        head_counts: Of the model.
        num_steps: How many steps the other ranks were told so far; asked from the engine's thread.
        notify: Called from any thread when `poll` has news.
    """

    def __init__(
        self,
        *,
        ranks: Sequence[LanesOfRank],
        head_counts: Iterable[int],
        lease_s: float,
        notify: Callable[[], None],
        num_steps: Callable[[], int],
        plain: ThreadedInbox | None = None,
    ) -> None:
        self._ranks = ranks
        self._num_steps = num_steps
        self._notify = notify
        self._plain = plain
        self._lock = threading.Lock()  # over all below
        counts = frozenset(head_counts)
        self._book = GangIncoming(lanes_from=lambda senders: lanes(senders, len(ranks), counts), lease_s=lease_s)

    @property
    def bytes_received(self) -> int:
        plain = self._plain.bytes_received if self._plain is not None else 0
        return plain + sum(rank.bytes_received for rank in self._ranks)

    @property
    def num_active(self) -> int:
        return len(self._book) + (self._plain.num_active if self._plain is not None else 0)

    @property
    def num_failed(self) -> int:
        return self._book.num_failed + (self._plain.num_failed if self._plain is not None else 0)

    @property
    def measures(self) -> Sequence[ByTransport]:
        """As of `GangOutbox`."""
        plain = self._plain.measures if self._plain is not None else ()
        own, *others = self._ranks
        told = LinkMeasures(bytes_received=sum(rank.bytes_received for rank in others))
        return [*plain, *own.receiving_measures, *([{OTHERS: told}] if others else ())]

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> None:
        with self._lock:
            grant = Grant(block_ids, num_cached_tokens, state_ids, self._num_steps())
            self._tell(key, self._book.grant(key, grant))
        if self._plain is not None:
            self._plain.grant(key, block_ids, num_cached_tokens, state_ids)

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        with self._lock:
            self._tell(key, self._book.refuse(key, error, time.monotonic()))
        if self._plain is not None:
            self._plain.refuse(key, error)

    def abort(self, key: TransferKey) -> None:
        with self._lock:
            self._tell(key, self._book.abort(key, time.monotonic()))
        if self._plain is not None:
            self._plain.abort(key)
        self._notify()

    def on_event(self, lane: Lane, event: InboxEvent) -> None:
        """A lane has told."""
        with self._lock:
            self._tell(event.key, self._book.on_event(lane, event, time.monotonic()))
        self._notify()

    def poll(self) -> list[InboxEvent]:
        """Also looks for what is overdue: engines poll twice a second at least."""
        with self._lock:
            for key, commands in self._book.overdue(time.monotonic()).items():
                self._tell(key, commands)
            events = self._book.poll()
        return events + self._plain.poll() if self._plain is not None else events

    def close(self) -> None:
        """The lanes are closed by whoever made them."""
        if self._plain is not None:
            self._plain.close()

    def _tell(self, key: TransferKey, commands: Iterable[tuple[Lane, Command]]) -> None:
        for lane, command in commands:
            rank = self._ranks[lane.receiver.rank]
            if isinstance(command, Grant):
                held = command.block_ids, command.num_cached_tokens, command.state_ids
                rank.grant(lane, key, *held, command.num_steps)
            elif isinstance(command, Refuse):
                rank.refuse(lane, key, command.error)
            else:
                rank.abort(lane, key, command.error)
