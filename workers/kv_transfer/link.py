"""The contract between engine and KV transfer: an Outbox on the prefill side, an Inbox on the decode side.

A transfer is named by its key. Life, prefill side: `offer` when the sequence enters the running set; `computed` after
each layer of each chunk (a queue put, nothing more: the link's own thread reads the blocks and sends); `complete`
when the whole prompt is computed; the blocks stay untouched until `Acked`, or until `Ended` says that no read is in
flight. Decode side: `Offered` arrives; the engine answers `grant` with blocks (now or later) or `refuse`; `Arrived`
says that every range of every layer is in the blocks; `Lost` that the transfer failed AND that no write is in flight
any more, so that the blocks may be freed. Between its own `abort` and `Lost` the engine keeps the blocks in
quarantine.

What both sides keep of transfers is in two books without I/O, `outgoing` and `incoming`. Implementations: `outbox` and
`inbox`, on threads, over `grpc_link`; `cluster.simulator`'s, in virtual time. All methods of the former are thread-safe
and never block on the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from baton.errors import BatonError
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.measures import ByTransport


class TransferKey(NamedTuple):
    request_id: str
    attempt: int
    choice: int  # first choice of the Submit


class Going(NamedTuple):
    """What of a step is handed over: `key` holds [0, num_tokens) after it, in every layer."""

    key: TransferKey
    num_tokens: int
    block_ids: Sequence[int]
    state_ids: Sequence[int] = ()


# Events of the prefill side.
@dataclass(frozen=True, slots=True)
class Ticketed:
    key: TransferKey
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class Acked:
    """All arrived: the decode side goes on alone."""

    key: TransferKey


@dataclass(frozen=True, slots=True)
class Ended:
    """Refused, aborted, expired or lost, and no read of the blocks is in flight. `error` is None after an own abort."""

    key: TransferKey
    error: BatonError | None


OutboxEvent = Ticketed | Acked | Ended


class Outbox(Protocol):
    @property
    def bytes_sent(self) -> int: ...

    @property
    def num_failed(self) -> int:
        """Transfers that ended with an error; an abort on either side is none."""
        ...

    @property
    def measures(self) -> Sequence[ByTransport]:
        """Of each of its links; read for figures alone."""
        ...

    def offer(self, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int) -> None:
        """A sequence of which `num_tokens` tokens will be computed here."""
        ...

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        """Layer `layer` now holds tokens [0, num_tokens) in `block_ids`, or the state after them in `state_ids`."""
        ...

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        """`first_tokens`: (choice, token id) of the choices that go on; their KV is not yet computed."""
        ...

    def abort(self, key: TransferKey) -> None:
        """Idempotent. `Ended` follows, unless `Acked` was on its way."""
        ...

    def poll(self) -> list[OutboxEvent]: ...

    def close(self) -> None: ...


class Push:
    """What to call after each layer of a step: tells the link of it.

    Attributes:
        going: What of the step is handed over: the ranks of a gang are told with the step.
    """

    def __init__(
        self,
        going: Sequence[Going],
        computed: Callable[[TransferKey, int, int, Sequence[int], Sequence[int]], None],
    ) -> None:
        self.going = going
        self._computed = computed

    def __call__(self, layer: int) -> None:
        for key, num_tokens, block_ids, state_ids in self.going:
            self._computed(key, layer, num_tokens, block_ids, state_ids)


# Events of the decode side.
@dataclass(frozen=True, slots=True)
class Offered:
    key: TransferKey
    submit: Submit
    ingress_id: str


@dataclass(frozen=True, slots=True)
class Arrived:
    key: TransferKey
    num_tokens: int
    first_tokens: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Lost:
    key: TransferKey
    error: BatonError | None


InboxEvent = Offered | Arrived | Lost


class Inbox(Protocol):
    @property
    def bytes_received(self) -> int: ...

    @property
    def num_failed(self) -> int: ...

    @property
    def measures(self) -> Sequence[ByTransport]: ...

    def grant(
        self, key: TransferKey, block_ids: Sequence[int], num_cached_tokens: int, state_ids: Sequence[int] = ()
    ) -> None:
        """Promises blocks for [0, num prompt tokens), of which only [num_cached_tokens, ...) is written, and a place
        for the state where there are layers with one."""
        ...

    def refuse(self, key: TransferKey, error: BatonError) -> None: ...

    def abort(self, key: TransferKey) -> None:
        """Idempotent; `Lost` follows once no write is in flight. Remembered for a lease: it may overtake its offer."""
        ...

    def poll(self) -> list[InboxEvent]: ...

    def close(self) -> None: ...
