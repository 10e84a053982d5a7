"""The book of a worker's transfers from others: coverage, leases, limits, events, what goes wrong, in words. No I/O.

Invariant: ranges of a payload arrive one after the other from what is cached on, and a transfer is COMPLETE only when
every payload holds all its units and both sides counted the same ranges. Each Offered that was polled gets exactly
one of Arrived and Lost, or `refuse`. A transfer ends in two steps, because writes may be in flight: from `end` on its
ranges are thrown away, and `lost` says that no write is in flight any more. Whoever drives the book (threads:
`inbox`, a virtual clock: `cluster.simulator.inbox`) writes the blocks, answers the peers and says what time it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from baton.errors import BatonError, CancelledError, OverloadedError, UnavailableError
from baton.v1.worker_pb2 import Submit
from workers.kv_transfer.handoff import HandoffError, Peer, State, is_failure, missing, move, turn_of
from workers.kv_transfer.link import Arrived, InboxEvent, Lost, Offered, TransferKey
from workers.kv_transfer.tombstones import Tombstones
from workers.model.contract import PayloadSpec, Unit

P = TypeVar("P", bound=Peer)
ABORTED_HERE = "the decode worker aborted the request"  # told to the sender
ABORTED_THERE = "the prefill worker ended the transfer"
_WAITING = frozenset({State.OFFERED, State.RESERVED, State.STREAMING})


@dataclass(slots=True, kw_only=True)
class _Transfer(Generic[P]):
    key: TransferKey
    peer: P
    expires_s: float
    state: State = State.OFFERED
    block_ids: Sequence[int] = ()
    state_ids: Sequence[int] = ()
    received: list[int] = field(default_factory=list)  # units, per payload: holds [0, received)
    num_ranges: int = 0
    is_aborted: bool = False  # by the engine: its loss is no error
    error: BatonError | None = None  # once it has ended

    @property
    def is_live(self) -> bool:
        """Has not ended: what comes is written."""
        return self.state in _WAITING


class Incoming(Generic[P]):
    """Args:
    payloads: What a sequence hands over.
    max_pending: Offers that may wait for blocks.
    """

    def __init__(self, *, payloads: Sequence[PayloadSpec], lease_s: float, max_pending: int) -> None:
        self.num_failed = 0
        self._payloads = tuple(payloads)
        self._has_states = any(spec.unit is Unit.STATE for spec in payloads)
        self._turn = turn_of(payloads)
        self._lease_s = lease_s
        self._max_pending = max_pending
        self._tombstones = Tombstones(lease_s=lease_s)
        self._transfers: dict[TransferKey, _Transfer[P]] = {}
        self._events: list[InboxEvent] = []

    def __len__(self) -> int:
        """Those whose `lost` is still to come count too."""
        return len(self._transfers)

    def is_live(self, key: TransferKey) -> bool:
        return self._live(key) is not None

    def peer_of(self, key: TransferKey) -> P | None:
        transfer = self._transfers.get(key)
        return transfer.peer if transfer is not None else None

    def keys_from(self, peer: P) -> list[TransferKey]:
        return [key for key, transfer in self._transfers.items() if transfer.peer == peer]

    def poll(self) -> list[InboxEvent]:
        """An offer aborted before it was seen stays: it is taken back soon."""
        events = self._events
        self._events = [event for event in events if self._is_withheld(event)]
        return [event for event in events if not self._is_withheld(event)] if self._events else events

    # What the engine says.

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> P | None:
        """Whom to send the ticket; None: the transfer has ended meanwhile."""
        transfer = self._live(key)
        if transfer is None:
            return None
        assert state_ids or not self._has_states, f"{key}: a model with states, and no place for this one's"
        move(transfer, State.RESERVED)
        transfer.block_ids, transfer.state_ids = self._turn.blocks(block_ids), state_ids
        transfer.received = [spec.num_cached(num_cached_tokens) for spec in self._payloads]
        return transfer.peer

    def refuse(self, key: TransferKey) -> P | None:
        """Ends an offer without an event. Whom to tell; None: it has ended by itself."""
        self._events = [event for event in self._events if not (isinstance(event, Lost) and event.key == key)]
        transfer = self._transfers.pop(key, None)
        return transfer.peer if transfer is not None else None

    def abort(self, key: TransferKey, now_s: float) -> P | None:
        """Remembered for a lease: it may overtake its offer.

        Returns:
            Whom to tell ABORTED_HERE, and `lost` is to follow; None: it is not here, or has ended already.
        """
        self._tombstones.note_abort(key, now_s)
        transfer = self._transfers.get(key)
        if transfer is None:  # it may have arrived, and nobody has seen that
            self._events = [Lost(key, None) if _is_arrived(event, key) else event for event in self._events]
            return None
        transfer.is_aborted, transfer.error = True, None
        return transfer.peer if self.end(key, State.ABORTED, None) else None

    # What the peer says, and the clock.

    def offer(self, key: TransferKey, peer: P, submit: Submit, ingress_id: str, now_s: float) -> None:
        """Raises: CancelledError, OverloadedError, HandoffError: the offer is refused."""
        if (why := self._tombstones.why_refused(key, now_s)) is not None:
            raise CancelledError(f"{key.request_id}: {why}")
        num_pending = sum(transfer.state is State.OFFERED for transfer in self._transfers.values())
        if num_pending >= self._max_pending:
            text = f"{num_pending} offers wait here for blocks; kv.max_pending is {self._max_pending}"
            raise OverloadedError(text)
        if key in self._transfers:
            raise HandoffError(f"{key.request_id}: offered twice")
        self._transfers[key] = _Transfer(key=key, peer=peer, expires_s=now_s + self._lease_s)
        self._tombstones.note_offer(key, now_s)
        self._events.append(Offered(key, submit, ingress_id))

    def receive(self, key: TransferKey, index: int, start: int, end: int) -> Sequence[int] | None:
        """Counts a range in; where to write it, or None: throw it away, its transfer has ended.

        Raises: HandoffError: a range that does not follow the one before, or came without a ticket.
        """
        transfer = self._live(key)
        if transfer is None:
            return None
        spec = self._next_in(transfer, index, start, end)
        if transfer.state is State.RESERVED:
            move(transfer, State.STREAMING)
        transfer.received[index] = end
        transfer.num_ranges += 1
        return transfer.block_ids if spec.unit is Unit.TOKEN else transfer.state_ids

    def complete(
        self, key: TransferKey, num_tokens: int, num_ranges: int, first_tokens: tuple[tuple[int, int], ...]
    ) -> bool:
        """True: the transfer is whole, its Arrived can be polled, and it is to be acked. False: it had ended before.

        Raises: HandoffError: something is missing; the transfer lives on until `end`.
        """
        transfer = self._live(key)
        if transfer is None:
            return False
        if transfer.state is State.OFFERED:
            raise HandoffError(f"{key.request_id}: complete before a ticket")
        if what := missing(self._payloads, transfer.received, num_tokens):
            raise HandoffError(f"{key.request_id}: complete with {num_tokens} tokens, but {what}")
        if num_ranges != transfer.num_ranges:
            raise HandoffError(f"{key.request_id}: complete after {num_ranges} ranges, but {transfer.num_ranges} came")
        move(transfer, State.COMPLETE)
        del self._transfers[key]
        self._events.append(Arrived(key, num_tokens, first_tokens))
        return True

    def end(self, key: TransferKey, state: State, error: BatonError | None) -> bool:
        """From now on what comes of it is thrown away; `lost` is to follow. False: it has ended before."""
        transfer = self._live(key)
        if transfer is None:
            return False
        move(transfer, state)
        transfer.error = error
        return True

    def lost(self, key: TransferKey) -> bool:
        """No write of it is in flight; an Offered that nobody has seen is taken back. False: told, or refused."""
        transfer = self._transfers.pop(key, None)
        if transfer is None:
            return False
        assert not transfer.is_live, f"{key} has not ended"
        self.num_failed += is_failure(transfer.error)
        num_events = len(self._events)
        self._events = [event for event in self._events if not (isinstance(event, Offered) and event.key == key)]
        if len(self._events) == num_events:
            self._events.append(Lost(key, transfer.error))
        return True

    def renew(self, keys: Iterable[TransferKey], now_s: float) -> None:
        for key in keys:
            if (transfer := self._live(key)) is not None:
                transfer.expires_s = now_s + self._lease_s

    def expires_s(self, key: TransferKey) -> float:
        return self._transfers[key].expires_s

    def overdue(self, key: TransferKey, now_s: float) -> UnavailableError | None:
        """What to `end` it with when it was not renewed for a lease; None: it was, or has ended."""
        transfer = self._live(key)
        if transfer is None or now_s <= transfer.expires_s:
            return None
        text = f"not renewed by {transfer.peer.worker_id} within {self._lease_s:g} s"
        return UnavailableError(f"{key.request_id}: {text}")

    def _live(self, key: TransferKey) -> _Transfer[P] | None:
        transfer = self._transfers.get(key)
        return transfer if transfer is not None and transfer.is_live else None

    def _next_in(self, transfer: _Transfer[P], index: int, start: int, end: int) -> PayloadSpec:
        """The payload of a range. Raises: HandoffError: the range does not follow the one before."""
        if transfer.state is State.OFFERED:
            fault = "came before a ticket"
        elif not 0 <= index < len(self._payloads):
            fault = f"is none of {len(self._payloads)}"
        else:
            spec, have = self._payloads[index], transfer.received[index]
            if start == have and start < end and (spec.unit is Unit.TOKEN or end == 1):
                return spec
            fault = f"does not follow {have} {spec.unit.value}s of {spec.name}"
        raise HandoffError(f"{transfer.key.request_id}: [{start}, {end}) of payload {index} {fault}")

    def _is_withheld(self, event: InboxEvent) -> bool:
        if not isinstance(event, Offered):
            return False
        transfer = self._transfers.get(event.key)
        return transfer is not None and transfer.is_aborted


def _is_arrived(event: InboxEvent, key: TransferKey) -> bool:
    return isinstance(event, Arrived) and event.key == key
