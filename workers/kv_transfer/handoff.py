"""The states of a hand-over, and what the books of both sides (`outgoing`, `incoming`) share. No I/O, no clock.

`now_s` is any monotonic clock's time: threads (`outbox`, `inbox`) and the simulator's virtual clock drive the same
books.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

from baton.errors import BatonError, CancelledError, InternalError, UnavailableError
from workers.kv_transfer.link import TransferKey
from workers.model.contract import PayloadSpec, Unit
from workers.model.places import EVERY_BLOCK, Turn
from workers.preempted import PreemptedError

RENEWALS_PER_LEASE = 3  # that a sender tells of what lives
LOOKS_PER_LEASE = 12  # that either side takes for what is overdue
SHUTTING_DOWN = "this worker is shutting down"


class State(enum.Enum):
    OFFERED = "offered"  # no blocks promised yet
    RESERVED = "reserved"  # blocks promised, nothing moved
    STREAMING = "streaming"
    COMPLETE = "complete"  # receiver: whole; sender: acked
    FAILED = "failed"  # refused, inconsistent, or its link is down
    ABORTED = "aborted"
    EXPIRED = "expired"  # the other side was silent for too long


_LOSSES = frozenset({State.FAILED, State.ABORTED, State.EXPIRED})
LEGAL_MOVES: Mapping[State, frozenset[State]] = {
    State.OFFERED: _LOSSES | {State.RESERVED},
    State.RESERVED: _LOSSES | {State.STREAMING, State.COMPLETE},  # COMPLETE at once: the receiver had cached all of it
    State.STREAMING: _LOSSES | {State.COMPLETE},
    State.COMPLETE: frozenset(),
    State.FAILED: frozenset(),
    State.ABORTED: frozenset(),
    State.EXPIRED: frozenset(),
}


class HandoffError(InternalError):
    """A side broke the protocol; the message says how."""


class Peer(Protocol):
    """Whom a worker has transfers with; told from others by `==`."""

    @property
    def worker_id(self) -> str: ...


class _Moving(Protocol):
    key: TransferKey
    state: State


def move(transfer: _Moving, to: State) -> None:
    assert to in LEGAL_MOVES[transfer.state], f"{transfer.key}: {transfer.state.name} to {to.name}"
    transfer.state = to


def turn_of(payloads: Sequence[PayloadSpec]) -> Turn:
    """Which of a sequence's blocks a link moves: the same of all its layers."""
    return next((spec.turn for spec in payloads if spec.unit is Unit.TOKEN), EVERY_BLOCK)


def missing(payloads: Sequence[PayloadSpec], counts: Sequence[int], num_tokens: int) -> str:
    """The first payload that `counts` fewer units than a sequence of `num_tokens` has; empty: none does."""
    for spec, count in zip(payloads, counts, strict=True):
        if count < (needed := spec.num_units(num_tokens)):
            return f"{spec.name} has {count} of {needed} {spec.unit.value}s"
    return ""


def is_failure(error: BatonError | None) -> bool:
    """An abort on either side is none, nor is that the receiver has come to read prompts itself."""
    return error is not None and not isinstance(error, CancelledError | PreemptedError)


def graver(a: BatonError | None, b: BatonError | None) -> BatonError | None:
    """Of what two lanes of one transfer told: a failure before an abort, else the first."""
    return b if b is not None and (a is None or (is_failure(b) and not is_failure(a))) else a


def link_is_down(way: str, peer: Peer, reason: str = "") -> UnavailableError:
    """`way`: "to" or "from" the peer."""
    return UnavailableError(f"the link {way} {peer.worker_id} is down{reason and ': '}{reason}")
