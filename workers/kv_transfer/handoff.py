"""States, cursors, leases and tombstones of hand-overs, on both sides, without I/O.

Invariant: per layer 0 <= pushed <= computed on the sender, and on the receiver the ranges of a layer arrive one
after the other from `num_cached_tokens` on; a transfer is COMPLETE only when every layer holds [0, num_tokens) and
both sides counted the same ranges. A key is in a ledger exactly while its transfer lives.
Threads, sockets, clocks and stores belong to `sender.py` and `receiver.py`; `now_s` is any monotonic clock's time.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from workers.kv_transfer.link import TransferKey

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


class Span(NamedTuple):
    """Tokens [start, end) of one layer, to be read from `block_ids` (which begin at token 0)."""

    key: TransferKey
    layer: int
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
    deadline_s: float  # for the ticket; after the last range: for the ack
    computed: list[int]  # per layer
    pushed: list[int]  # per layer
    state: State = State.OFFERED
    block_ids: Sequence[int] = ()
    num_tokens: int | None = None  # None: the prompt is not computed yet
    first_tokens: tuple[tuple[int, int], ...] = ()
    num_ranges: int = 0
    is_closed: bool = False  # its last range has been taken and Complete told


class SendLedger:
    """The sender's transfers on one link.

    Args:
        token_nbytes: Payload bytes of one token, per layer.
        min_push_bytes: While a prompt is still being computed, less than this waits for more.
        bulk: Push nothing before the prompt is computed.
    """

    def __init__(
        self,
        *,
        token_nbytes: Sequence[int],
        lease_s: float,
        min_push_bytes: int = 0,
        bulk: bool = False,
    ) -> None:
        self._token_nbytes = tuple(token_nbytes)
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

    def offer(self, key: TransferKey, deadline_s: float) -> None:
        """`deadline_s`: when to stop waiting for the ticket."""
        assert key not in self._transfers, f"{key} is offered already"
        zeros = [0] * len(self._token_nbytes)
        self._transfers[key] = _Outgoing(key=key, deadline_s=deadline_s, computed=zeros, pushed=list(zeros))

    def ticket(self, key: TransferKey, num_cached_tokens: int) -> bool:
        """False: the key is gone or has its ticket, ignore this one."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state is not State.OFFERED:
            return False
        _move(transfer, State.RESERVED)
        transfer.pushed = [num_cached_tokens] * len(self._token_nbytes)
        return True

    def computed(self, key: TransferKey, layer: int, num_tokens: int, block_ids: Sequence[int]) -> None:
        """Unknown keys are ignored: their transfer has ended."""
        transfer = self._transfers.get(key)
        if transfer is not None:
            transfer.computed[layer] = max(transfer.computed[layer], num_tokens)
            transfer.block_ids = block_ids

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        """Raises: HandoffError: a layer has not computed so much."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.num_tokens is not None:
            return
        short = [i for i, computed in enumerate(transfer.computed) if computed < num_tokens]
        if short:
            have = transfer.computed[short[0]]
            raise HandoffError(f"complete with {num_tokens} tokens, but layer {short[0]} has computed {have}")
        transfer.num_tokens = num_tokens
        transfer.first_tokens = tuple(first_tokens)

    def take(self, key: TransferKey, max_bytes: int) -> list[Span]:
        """Ranges to push next, at most `max_bytes` in all, or one token if that is more; advances the cursors."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state is State.OFFERED or not self._may_push(transfer):
            return []
        spans: list[Span] = []
        for layer, pushed in enumerate(transfer.pushed):
            nbytes = self._token_nbytes[layer]
            end = transfer.computed[layer] if transfer.num_tokens is None else transfer.num_tokens
            step = min(end, pushed + max(max_bytes // nbytes, 0 if spans else 1))
            if step > pushed:
                spans.append(Span(key, layer, pushed, step, transfer.block_ids))
                max_bytes -= (step - pushed) * nbytes
                transfer.pushed[layer] = step
        transfer.num_ranges += len(spans)
        if spans and transfer.state is State.RESERVED:
            _move(transfer, State.STREAMING)
        return spans

    def close(self, key: TransferKey, now_s: float) -> Closing | None:
        """Once, when the prompt is computed and every range was taken: what to tell. From now the ack is awaited."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.num_tokens is None or transfer.is_closed or transfer.state is State.OFFERED:
            return None
        if any(pushed < transfer.num_tokens for pushed in transfer.pushed):
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
        if transfer.num_tokens is not None:
            return True
        if self._bulk:
            return False
        cursors = zip(transfer.computed, transfer.pushed, self._token_nbytes, strict=True)
        return sum(max(0, done - sent) * nbytes for done, sent, nbytes in cursors) >= max(1, self._min_push_bytes)


@dataclass(slots=True, kw_only=True)
class _Incoming:
    key: TransferKey
    expires_s: float
    state: State = State.OFFERED
    block_ids: Sequence[int] = ()
    received: list[int] = field(default_factory=list)  # per layer: holds [0, received)
    num_ranges: int = 0


class ReceiveLedger:
    """The receiver's transfers on one link."""

    def __init__(self, *, num_layers: int, lease_s: float) -> None:
        self._num_layers = num_layers
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

    def grant(self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int) -> bool:
        """False: the transfer has ended meanwhile."""
        transfer = self._transfers.get(key)
        if transfer is None:
            return False
        _move(transfer, State.RESERVED)
        transfer.block_ids = block_ids
        transfer.received = [num_cached_tokens] * self._num_layers
        return True

    def renew(self, keys: Iterable[TransferKey], now_s: float) -> None:
        for key in keys:
            if (transfer := self._transfers.get(key)) is not None:
                transfer.expires_s = now_s + self._lease_s

    def receive(self, key: TransferKey, layer: int, start: int, end: int) -> Sequence[int] | None:
        """Counts a range in; where to write it, or None: discard it, its transfer has ended.

        Raises: HandoffError: a range that does not follow the one before, or came without a ticket.
        """
        transfer = self._transfers.get(key)
        if transfer is None:
            return None
        if transfer.state is State.OFFERED:
            raise HandoffError(f"layer {layer} tokens [{start}, {end}) came before a ticket")
        if not 0 <= layer < self._num_layers or start != transfer.received[layer] or end <= start:
            raise HandoffError(f"layer {layer} tokens [{start}, {end}) do not follow {transfer.received}")
        if transfer.state is State.RESERVED:
            _move(transfer, State.STREAMING)
        transfer.received[layer] = end
        transfer.num_ranges += 1
        return transfer.block_ids

    def complete(self, key: TransferKey, num_tokens: int, num_ranges: int) -> bool:
        """True: the transfer is whole, and forgotten here. False: it had ended before.

        Raises: HandoffError: something is missing; the transfer lives on until `end`.
        """
        transfer = self._transfers.get(key)
        if transfer is None:
            return False
        if transfer.state is State.OFFERED:
            raise HandoffError("complete before a ticket")
        short = [i for i, received in enumerate(transfer.received) if received < num_tokens]
        if short:
            have = transfer.received[short[0]]
            raise HandoffError(f"complete with {num_tokens} tokens, but layer {short[0]} holds {have}")
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
