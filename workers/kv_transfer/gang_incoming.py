"""The book of a gang's transfers from others: each comes over several lanes, and the engine sees one. No I/O, no clock.

Invariant: a key is in the book until every lane of it has arrived or is lost, and an Offered that was polled gets
exactly one of Arrived and Lost then, or `refuse`; so no rank writes its blocks any more. One lane that is lost ends the
others. What a lane itself does is `workers.kv_transfer.incoming`'s.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from baton.errors import BatonError, CancelledError, UnavailableError
from workers.kv_transfer.handoff import HandoffError, graver, is_failure
from workers.kv_transfer.incoming import ABORTED_HERE
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Arrived, InboxEvent, Lost, Offered, TransferKey
from workers.kv_transfer.tombstones import Tombstones
from workers.model.places import Degrees


@dataclass(frozen=True, slots=True)
class Grant:
    block_ids: Sequence[int]
    num_cached_tokens: int
    state_ids: Sequence[int]
    num_steps: int = 0  # of the gang's so far: they may read what the blocks held


@dataclass(frozen=True, slots=True)
class Refuse:
    """No event follows from the lane."""

    error: BatonError


@dataclass(frozen=True, slots=True)
class Abort:
    """The lane tells its end, if it has not.

    Attributes:
        error: What the sender is told; None: that the request was aborted here.
    """

    error: BatonError | None


Command = Grant | Refuse | Abort


class _Stage(enum.Enum):
    AWAITED = "awaited"  # other lanes of the transfer were offered
    OFFERED = "offered"
    GRANTED = "granted"
    ARRIVED = "arrived"
    LOST = "lost"


_CLOSED = frozenset({_Stage.ARRIVED, _Stage.LOST})


@dataclass(slots=True, kw_only=True)
class _Transfer:
    key: TransferKey
    stages: dict[Lane, _Stage]
    expires_s: float  # by when every lane must be offered
    is_told: bool = False  # the engine has, or will see, an Offered
    grant: Grant | None = None
    arrived: Arrived | None = None
    is_aborted: bool = False  # by the engine: its loss is no error
    is_ending: bool = False
    error: BatonError | None = None

    def end(self, error: BatonError | None) -> list[tuple[Lane, Command]]:
        """What is to be done about the other lanes."""
        self.error = graver(self.error, error)
        if self.is_ending:
            return []
        self.is_ending = True
        commands: list[tuple[Lane, Command]] = []
        for lane, stage in self.stages.items():
            if stage is _Stage.GRANTED:
                commands.append((lane, Abort(error)))
            elif stage is _Stage.OFFERED:
                commands.append((lane, Refuse(error or CancelledError(ABORTED_HERE))))
            if stage in (_Stage.OFFERED, _Stage.AWAITED):
                self.stages[lane] = _Stage.LOST
        return commands


class GangIncoming:
    """Whoever drives it tells the lanes what a call returns.

    Args:
        lanes_from: All lanes from a gang whose ranks divide their work so.
    """

    def __init__(self, *, lanes_from: Callable[[Degrees], Iterable[Lane]], lease_s: float) -> None:
        self.num_failed = 0
        self._lanes_from = lanes_from
        self._lease_s = lease_s
        self._tombstones = Tombstones(lease_s=lease_s)
        self._errors: dict[TransferKey, tuple[BatonError, float]] = {}  # to what lanes to come are told, until when
        self._transfers: dict[TransferKey, _Transfer] = {}
        self._events: list[InboxEvent] = []

    def __len__(self) -> int:
        return len(self._transfers)

    def __contains__(self, key: TransferKey) -> bool:
        return key in self._transfers

    def poll(self) -> list[InboxEvent]:
        events, self._events = self._events, []
        return events

    # What the engine says.

    def grant(self, key: TransferKey, grant: Grant) -> list[tuple[Lane, Command]]:
        """Nothing where the transfer has ended meanwhile: its Lost can be polled, or will be."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.is_ending:
            return []
        transfer.grant = grant
        offered = [lane for lane, stage in transfer.stages.items() if stage is _Stage.OFFERED]
        transfer.stages.update(dict.fromkeys(offered, _Stage.GRANTED))
        return [(lane, grant) for lane in offered]

    def refuse(self, key: TransferKey, error: BatonError, now_s: float) -> list[tuple[Lane, Command]]:
        """Ends an offer without an event."""
        self._events = [event for event in self._events if not (isinstance(event, Lost) and event.key == key)]
        self._remember(key, error, now_s)
        transfer = self._transfers.pop(key, None)
        return transfer.end(error) if transfer is not None else []

    def abort(self, key: TransferKey, now_s: float) -> list[tuple[Lane, Command]]:
        """Remembered for a lease: it may overtake its offers."""
        self._tombstones.note_abort(key, now_s)
        transfer = self._transfers.get(key)
        if transfer is None:  # it may have arrived, and nobody has seen that
            self._events = [Lost(key, None) if _is_arrived(event, key) else event for event in self._events]
            return []
        transfer.is_aborted = True
        return self._end(transfer, None)

    # What the lanes say, and the clock.

    def on_event(self, lane: Lane, event: InboxEvent, now_s: float) -> list[tuple[Lane, Command]]:
        if isinstance(event, Offered):
            return self._offered(lane, event, now_s)
        transfer = self._transfers.get(event.key)
        if transfer is None or transfer.stages.get(lane, _Stage.LOST) in _CLOSED:
            return []
        if isinstance(event, Lost):
            transfer.stages[lane] = _Stage.LOST
            self._remember(event.key, event.error, now_s)
            return self._end(transfer, event.error)
        transfer.stages[lane] = _Stage.ARRIVED
        if transfer.arrived not in (None, event):
            told = f"{transfer.arrived} over one lane, {event} over another"
            return self._end(transfer, HandoffError(f"{event.key.request_id}: {told}"))
        transfer.arrived = event
        self._close(transfer)
        return []

    def overdue(self, now_s: float) -> dict[TransferKey, list[tuple[Lane, Command]]]:
        """Ends what was offered over some of its lanes alone for a lease."""
        late = [
            transfer
            for transfer in self._transfers.values()
            if now_s > transfer.expires_s and _Stage.AWAITED in transfer.stages.values()
        ]
        commands = {}
        for transfer in late:
            awaited = next(lane for lane, stage in transfer.stages.items() if stage is _Stage.AWAITED)
            error = UnavailableError(f"{transfer.key.request_id}: {awaited} was not offered within {self._lease_s:g} s")
            self._remember(transfer.key, error, now_s)
            commands[transfer.key] = self._end(transfer, error)
        return commands

    def _offered(self, lane: Lane, event: Offered, now_s: float) -> list[tuple[Lane, Command]]:
        key = event.key
        transfer = self._transfers.get(key)
        why = self._tombstones.why_refused(key, now_s)
        if why is not None and transfer is None:
            error, _ = self._errors.get(key, (CancelledError(f"{key.request_id}: {why}"), 0.0))
            return [(lane, Refuse(error))]
        if transfer is None:
            stages = dict.fromkeys(self._lanes_from(lane.senders), _Stage.AWAITED)
            transfer = _Transfer(key=key, stages=stages, expires_s=now_s + self._lease_s)
            self._transfers[key] = transfer
            self._tombstones.note_offer(key, now_s)
        if transfer.stages.get(lane) is not _Stage.AWAITED:
            return [(lane, Refuse(transfer.error or CancelledError(f"{key.request_id}: {lane} is not awaited")))]
        transfer.stages[lane] = _Stage.OFFERED
        if lane.joins_leaders:
            transfer.is_told = True
            self._events.append(event)
        if transfer.grant is None:
            return []
        transfer.stages[lane] = _Stage.GRANTED
        return [(lane, transfer.grant)]

    def _remember(self, key: TransferKey, error: BatonError | None, now_s: float) -> None:
        """For a lease: lanes that are offered yet are refused."""
        self._tombstones.note_abort(key, now_s)
        for old in [old for old, (_, expires_s) in self._errors.items() if expires_s <= now_s]:
            del self._errors[old]
        if error is not None:
            self._errors.setdefault(key, (error, now_s + self._lease_s))

    def _end(self, transfer: _Transfer, error: BatonError | None) -> list[tuple[Lane, Command]]:
        commands = transfer.end(error)
        self._close(transfer)
        return commands

    def _close(self, transfer: _Transfer) -> None:
        if not set(transfer.stages.values()) <= _CLOSED:
            return
        del self._transfers[transfer.key]
        if not transfer.is_ending:
            assert transfer.arrived is not None
            self._events.append(transfer.arrived)
        elif transfer.is_told:
            self._lose(transfer.key, None if transfer.is_aborted else transfer.error)

    def _lose(self, key: TransferKey, error: BatonError | None) -> None:
        """An Offered that nobody has seen is taken back."""
        self.num_failed += is_failure(error)
        num_events = len(self._events)
        self._events = [event for event in self._events if not (isinstance(event, Offered) and event.key == key)]
        if len(self._events) == num_events:
            self._events.append(Lost(key, error))


def _is_arrived(event: InboxEvent, key: TransferKey) -> bool:
    return isinstance(event, Arrived) and event.key == key
