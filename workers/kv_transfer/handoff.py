"""States, cursors, leases and tombstones of hand-overs, on both sides, without I/O.

Payloads are counted in units (`workers.model.contract.PayloadSpec`): a layer's tokens, or its state as one.
Invariant: per payload 0 <= pushed <= computed on the sender, and on the receiver the ranges of a payload arrive one
after the other from what is cached on; a transfer is COMPLETE only when every payload holds all its units and both
sides counted the same ranges. A key is in a ledger exactly while its transfer lives.
Threads, sockets, clocks and stores belong to `sender.py` and `receiver.py`; `now_s` is any monotonic clock's time.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from workers.kv_transfer.link import TransferKey
from workers.model.contract import PayloadSpec, Unit

K = TypeVar("K")
RENEWALS_PER_LEASE = 3  # that a sender tells of what lives
LOOKS_PER_LEASE = 12  # that either side takes for what is overdue


class State(enum.Enum):
    OFFERED = "offered"  # no blocks promised yet
    RESERVED = "reserved"  # blocks promised, nothing moved
    STREAMING = "streaming"
    COMPLETE = "complete"  # receiver: whole; sender: acked
    FAILED = "failed"  # refused, inconsistent, or its link is down
    ABORTED = "aborted"
    EXPIRED = "expired"  # the other side was silent for too long


_ENDS = frozenset({State.FAILED, State.ABORTED, State.EXPIRED})
LEGAL_MOVES: Mapping[State, frozenset[State]] = {
    State.OFFERED: _ENDS | {State.RESERVED},
    State.RESERVED: _ENDS | {State.STREAMING, State.COMPLETE},  # COMPLETE at once: the receiver had cached all of it
    State.STREAMING: _ENDS | {State.COMPLETE},
    State.COMPLETE: frozenset(),
    State.FAILED: frozenset(),
    State.ABORTED: frozenset(),
    State.EXPIRED: frozenset(),
}


def _move(transfer: "_Outgoing | _Incoming", to: State) -> None:
    assert to in LEGAL_MOVES[transfer.state], f"{transfer.key}: {transfer.state.name} to {to.name}"
    transfer.state = to


class HandoffError(Exception):
    """The peer broke the protocol; the message says how."""


@dataclass(frozen=True, slots=True)
class Span:
    """Units [start, end) of payload number `index`, to be read from `block_ids` (which begin at unit 0)."""

    key: TransferKey
    index: int
    start: int
    end: int
    block_ids: Sequence[int]


class Closing(NamedTuple):
    """What the sender tells last: the receiver must hold this."""

    num_tokens: int
    num_ranges: int
    first_tokens: tuple[tuple[int, int], ...]


@dataclass(slots=True, kw_only=True)
class _Outgoing:
    key: TransferKey
    num_tokens: int
    deadline_s: float  # for the ticket; after the last range: for the ack
    computed: list[int]  # units, per payload
    pushed: list[int]  # units, per payload
    state: State = State.OFFERED
    block_ids: Sequence[int] = ()
    state_ids: Sequence[int] = ()
    is_computed: bool = False  # all of the prompt is, by the engine's word
    first_tokens: tuple[tuple[int, int], ...] = ()
    num_ranges: int = 0
    is_closed: bool = False  # its last range has been taken and Complete told


class SendLedger:
    """The sender's transfers on one link.

    Args:
        payloads: What a sequence hands over.
        min_push_bytes: While a prompt is still being computed, less than this waits for more.
        bulk: Push nothing before the prompt is computed.
    """

    def __init__(
        self,
        *,
        payloads: Sequence[PayloadSpec],
        lease_s: float,
        min_push_bytes: int = 0,
        bulk: bool = False,
    ) -> None:
        self._payloads = tuple(payloads)
        self._of_layer: dict[int, list[int]] = {}
        for index, spec in enumerate(self._payloads):
            self._of_layer.setdefault(spec.layer, []).append(index)
        self._lease_s = lease_s
        self._min_push_bytes = min_push_bytes
        self._bulk = bulk
        self._transfers: dict[TransferKey, _Outgoing] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    def __contains__(self, key: TransferKey) -> bool:
        return key in self._transfers

    @property
    def keys(self) -> list[TransferKey]:
        return list(self._transfers)

    def state(self, key: TransferKey) -> State:
        return self._transfers[key].state

    def offer(self, key: TransferKey, num_tokens: int, deadline_s: float) -> None:
        """`num_tokens` will be computed; `deadline_s`: when to stop waiting for the ticket."""
        assert key not in self._transfers, f"{key} is offered already"
        zeros = [0] * len(self._payloads)
        self._transfers[key] = _Outgoing(
            key=key, num_tokens=num_tokens, deadline_s=deadline_s, computed=zeros, pushed=list(zeros)
        )

    def ticket(self, key: TransferKey, num_cached_tokens: int) -> bool:
        """False: the key is gone or has its ticket, ignore this one."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state is not State.OFFERED:
            return False
        _move(transfer, State.RESERVED)
        transfer.pushed = [spec.num_cached(num_cached_tokens) for spec in self._payloads]
        return True

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        """On every rank. Unknown keys are ignored: their transfer has ended."""
        transfer = self._transfers.get(key)
        if transfer is None:
            return
        for index in self._of_layer[layer]:
            num_final = self._payloads[index].num_final(num_tokens, transfer.num_tokens)
            transfer.computed[index] = max(transfer.computed[index], num_final)
        transfer.block_ids, transfer.state_ids = block_ids, state_ids

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        """Raises: HandoffError: a layer has not computed so much, or another number was offered."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.is_computed:
            return
        if num_tokens != transfer.num_tokens:
            raise HandoffError(f"complete with {num_tokens} tokens, but {transfer.num_tokens} were offered")
        if missing := _missing(self._payloads, transfer.computed, num_tokens):
            raise HandoffError(f"complete with {num_tokens} tokens, but {missing}")
        transfer.is_computed = True
        transfer.first_tokens = tuple(first_tokens)

    def take(self, key: TransferKey, max_bytes: int) -> list[Span]:
        """Ranges to push next, at most `max_bytes` in all, or one unit if that is more; advances the cursors."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state is State.OFFERED or not self._may_push(transfer):
            return []
        spans: list[Span] = []
        for index, (spec, pushed) in enumerate(zip(self._payloads, transfer.pushed, strict=True)):
            room = max(max_bytes // spec.unit_nbytes, 0 if spans else 1)
            end = min(transfer.computed[index], pushed + room)
            if end > pushed:
                block_ids = transfer.block_ids if spec.unit is Unit.TOKEN else transfer.state_ids
                spans.append(Span(key, index, pushed, end, block_ids))
                max_bytes -= (end - pushed) * spec.unit_nbytes
                transfer.pushed[index] = end
        transfer.num_ranges += len(spans)
        if spans and transfer.state is State.RESERVED:
            _move(transfer, State.STREAMING)
        return spans

    def close(self, key: TransferKey, now_s: float) -> Closing | None:
        """Once, when the prompt is computed and every range was taken: what to tell. From now the ack is awaited."""
        transfer = self._transfers.get(key)
        if transfer is None or not transfer.is_computed or transfer.is_closed or transfer.state is State.OFFERED:
            return None
        if _missing(self._payloads, transfer.pushed, transfer.num_tokens):
            return None
        transfer.is_closed = True
        transfer.deadline_s = now_s + self._lease_s
        return Closing(transfer.num_tokens, transfer.num_ranges, transfer.first_tokens)

    def end(self, key: TransferKey, state: State) -> bool:
        """Forgets the key. False: it was gone, or COMPLETE (an ack) came before anything could be acked."""
        transfer = self._transfers.get(key)
        if transfer is None or (state is State.COMPLETE and not transfer.is_closed):
            return False
        _move(transfer, state)
        del self._transfers[key]
        return True

    def overdue(self, now_s: float) -> list[TransferKey]:
        """Keys whose ticket or ack did not come in time. While the engine computes there is no limit here."""
        return [
            key
            for key, transfer in self._transfers.items()
            if now_s > transfer.deadline_s and (transfer.is_closed or transfer.state is State.OFFERED)
        ]

    def _may_push(self, transfer: _Outgoing) -> bool:
        if transfer.is_computed:
            return True
        if self._bulk:
            return False
        cursors = zip(transfer.computed, transfer.pushed, self._payloads, strict=True)
        nbytes = sum(max(0, done - sent) * spec.unit_nbytes for done, sent, spec in cursors)
        return nbytes >= max(1, self._min_push_bytes)


@dataclass(slots=True, kw_only=True)
class _Incoming:
    key: TransferKey
    expires_s: float
    state: State = State.OFFERED
    block_ids: Sequence[int] = ()
    state_ids: Sequence[int] = ()
    received: list[int] = field(default_factory=list)  # units, per payload: holds [0, received)
    num_ranges: int = 0


class ReceiveLedger:
    """The receiver's transfers on one link."""

    def __init__(self, *, payloads: Sequence[PayloadSpec], lease_s: float) -> None:
        self._payloads = tuple(payloads)
        self._lease_s = lease_s
        self._transfers: dict[TransferKey, _Incoming] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    def __contains__(self, key: TransferKey) -> bool:
        return key in self._transfers

    @property
    def keys(self) -> list[TransferKey]:
        return list(self._transfers)

    @property
    def num_pending(self) -> int:
        """Offers without blocks."""
        return sum(transfer.state is State.OFFERED for transfer in self._transfers.values())

    def state(self, key: TransferKey) -> State:
        return self._transfers[key].state

    def offer(self, key: TransferKey, now_s: float) -> None:
        """Raises: HandoffError: the key lives already."""
        if key in self._transfers:
            raise HandoffError("offered twice")
        self._transfers[key] = _Incoming(key=key, expires_s=now_s + self._lease_s)

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> bool:
        """False: the transfer has ended meanwhile."""
        transfer = self._transfers.get(key)
        if transfer is None:
            return False
        _move(transfer, State.RESERVED)
        transfer.block_ids, transfer.state_ids = block_ids, state_ids
        transfer.received = [spec.num_cached(num_cached_tokens) for spec in self._payloads]
        return True

    def renew(self, keys: Iterable[TransferKey], now_s: float) -> None:
        for key in keys:
            if (transfer := self._transfers.get(key)) is not None:
                transfer.expires_s = now_s + self._lease_s

    def receive(self, key: TransferKey, index: int, start: int, end: int) -> Sequence[int] | None:
        """Counts a range in; where to write it, or None: discard it, its transfer has ended.

        Raises: HandoffError: a range that does not follow the one before, or came without a ticket.
        """
        transfer = self._transfers.get(key)
        if transfer is None:
            return None
        if transfer.state is State.OFFERED:
            raise HandoffError(f"[{start}, {end}) of payload {index} came before a ticket")
        if not 0 <= index < len(self._payloads):
            raise HandoffError(f"[{start}, {end}) of payload {index}, but there are {len(self._payloads)}")
        spec = self._payloads[index]
        has_state = spec.unit is Unit.STATE
        if start != transfer.received[index] or end <= start or (has_state and end > 1):
            have = transfer.received[index]
            raise HandoffError(f"{spec.name}: {spec.unit.value}s [{start}, {end}) do not follow [0, {have})")
        if transfer.state is State.RESERVED:
            _move(transfer, State.STREAMING)
        transfer.received[index] = end
        transfer.num_ranges += 1
        return transfer.state_ids if has_state else transfer.block_ids

    def complete(self, key: TransferKey, num_tokens: int, num_ranges: int) -> bool:
        """True: the transfer is whole, and forgotten here. False: it had ended before.

        Raises: HandoffError: something is missing; the transfer lives on until `end`.
        """
        transfer = self._transfers.get(key)
        if transfer is None:
            return False
        if transfer.state is State.OFFERED:
            raise HandoffError("complete before a ticket")
        if missing := _missing(self._payloads, transfer.received, num_tokens):
            raise HandoffError(f"complete with {num_tokens} tokens, but {missing}")
        if num_ranges != transfer.num_ranges:
            raise HandoffError(f"complete after {num_ranges} ranges, but {transfer.num_ranges} came")
        return self.end(key, State.COMPLETE)

    def end(self, key: TransferKey, state: State) -> bool:
        """Forgets the key. False: it was gone."""
        transfer = self._transfers.pop(key, None)
        if transfer is None:
            return False
        _move(transfer, state)
        return True

    def expires_s(self, key: TransferKey) -> float:
        return self._transfers[key].expires_s

    def overdue(self, now_s: float) -> list[TransferKey]:
        """Keys that were not renewed for a lease."""
        return [key for key, transfer in self._transfers.items() if now_s > transfer.expires_s]


def _missing(payloads: Sequence[PayloadSpec], counts: Sequence[int], num_tokens: int) -> str:
    """The first payload that `counts` fewer units than a sequence of `num_tokens` has; empty: none does."""
    for spec, count in zip(payloads, counts, strict=True):
        if count < (needed := spec.num_units(num_tokens)):
            return f"{spec.name} has {count} of {needed} {spec.unit.value}s"
    return ""


class Tombstones:
    """Remembers for one lease what a worker must refuse: aborted keys, and attempts older than one it has seen."""

    def __init__(self, *, lease_s: float) -> None:
        self._lease_s = lease_s
        self._aborted: dict[TransferKey, float] = {}  # to when; oldest first
        self._newest: dict[tuple[str, int], tuple[int, float]] = {}  # (request, choice) to (attempt, when)

    def __len__(self) -> int:
        return len(self._aborted) + len(self._newest)

    def bury(self, key: TransferKey, now_s: float) -> None:
        self._aborted.pop(key, None)
        self._aborted[key] = now_s + self._lease_s

    def saw(self, key: TransferKey, now_s: float) -> None:
        name = (key.request_id, key.choice)
        attempt = max(key.attempt, self._newest.pop(name, (0, 0.0))[0])
        self._newest[name] = (attempt, now_s + self._lease_s)

    def why_refused(self, key: TransferKey, now_s: float) -> str | None:
        """None: the key is welcome."""
        self._prune(now_s)
        if key in self._aborted:
            return "aborted before its offer came"
        newest = self._newest.get((key.request_id, key.choice))
        if newest is not None and key.attempt < newest[0]:
            return f"attempt {key.attempt} is older than attempt {newest[0]}"
        return None

    def _prune(self, now_s: float) -> None:
        for key in _until_fresh(self._aborted.items(), now_s):
            del self._aborted[key]
        for name in _until_fresh(((name, seen[1]) for name, seen in self._newest.items()), now_s):
            del self._newest[name]


def _until_fresh(items: Iterable[tuple[K, float]], now_s: float) -> list[K]:
    """Keys of the leading items whose time is over; items are in order of time."""
    old = []
    for key, expires_s in items:
        if expires_s > now_s:
            break
        old.append(key)
    return old
