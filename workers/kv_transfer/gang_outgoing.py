"""The book of a gang's transfers to others: each goes over several lanes, and the engine sees one. No I/O, no clock.

Invariant: a key is in the book until every lane of it has ended, and leaves it with exactly one of Acked and Ended; so
no rank reads its blocks any more then. One lane that fails ends the others. What a lane itself does is
`workers.kv_transfer.outgoing`'s.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from baton.errors import BatonError
from workers.kv_transfer.handoff import HandoffError, graver, is_failure
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Acked, Ended, OutboxEvent, Ticketed, TransferKey


class _Stage(enum.Enum):
    OFFERED = "offered"
    TICKETED = "ticketed"
    ACKED = "acked"
    ENDED = "ended"


_CLOSED = frozenset({_Stage.ACKED, _Stage.ENDED})


@dataclass(slots=True, kw_only=True)
class _Transfer:
    stages: dict[Lane, _Stage]
    num_cached_tokens: int | None = None  # by the first ticket
    is_aborted: bool = False  # by the engine: what ends it is no error
    is_ending: bool = False  # the lanes that were open were told to end
    error: BatonError | None = None

    def end(self, error: BatonError | None) -> list[Lane]:
        """The lanes to withdraw."""
        self.error = graver(self.error, error)
        if self.is_ending:
            return []
        self.is_ending = True
        return [lane for lane, stage in self.stages.items() if stage not in _CLOSED]


class GangOutgoing:
    """Whoever drives it tells the lanes; what a call returns is to be withdrawn from them."""

    def __init__(self) -> None:
        self.num_failed = 0
        self._transfers: dict[TransferKey, _Transfer] = {}
        self._events: list[OutboxEvent] = []

    def __len__(self) -> int:
        return len(self._transfers)

    def __contains__(self, key: TransferKey) -> bool:
        return key in self._transfers

    def poll(self) -> list[OutboxEvent]:
        events, self._events = self._events, []
        return events

    def offer(self, key: TransferKey, lanes: Iterable[Lane]) -> None:
        assert key not in self._transfers, f"{key} is offered already"
        self._transfers[key] = _Transfer(stages=dict.fromkeys(lanes, _Stage.OFFERED))

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        """Instead of `offer`: there are no lanes that would take it."""
        self._tell_ended(key, error)

    def lanes(self, key: TransferKey) -> list[Lane]:
        """Of a transfer that goes on; none of one that has ended or is ending."""
        transfer = self._transfers.get(key)
        return list(transfer.stages) if transfer is not None and not transfer.is_ending else []

    def abort(self, key: TransferKey) -> list[Lane]:
        transfer = self._transfers.get(key)
        if transfer is None:
            return []
        transfer.is_aborted = True
        return transfer.end(None)

    def on_event(self, lane: Lane, event: OutboxEvent) -> list[Lane]:
        transfer = self._transfers.get(event.key)
        if transfer is None or transfer.stages.get(lane, _Stage.ENDED) in _CLOSED:
            return []
        withdrawn: list[Lane] = []
        if isinstance(event, Ticketed):
            transfer.stages[lane] = _Stage.TICKETED
            withdrawn = self._ticketed(transfer, event)
        elif isinstance(event, Acked):
            transfer.stages[lane] = _Stage.ACKED
        else:
            transfer.stages[lane] = _Stage.ENDED
            withdrawn = transfer.end(event.error)
        self._close(event.key, transfer)
        return withdrawn

    def _ticketed(self, transfer: _Transfer, event: Ticketed) -> list[Lane]:
        """Tells the engine once all lanes have their tickets."""
        if transfer.num_cached_tokens is None:
            transfer.num_cached_tokens = event.num_cached_tokens
        if transfer.num_cached_tokens != event.num_cached_tokens:
            told = f"{transfer.num_cached_tokens} and {event.num_cached_tokens} cached tokens"
            return transfer.end(HandoffError(f"{event.key.request_id}: one decode gang told of {told}"))
        if _Stage.OFFERED not in transfer.stages.values() and not transfer.is_ending:
            self._events.append(event)
        return []

    def _close(self, key: TransferKey, transfer: _Transfer) -> None:
        stages = set(transfer.stages.values())
        if not stages <= _CLOSED:
            return
        del self._transfers[key]
        if stages == {_Stage.ACKED}:
            self._events.append(Acked(key))
        else:
            self._tell_ended(key, None if transfer.is_aborted else transfer.error)

    def _tell_ended(self, key: TransferKey, error: BatonError | None) -> None:
        self.num_failed += is_failure(error)
        self._events.append(Ended(key, error))
