"""The book of a worker's transfers to others: cursors, deadlines, events, and what goes wrong, in words. No I/O.

Payloads are counted in units (`workers.model.contract.PayloadSpec`): a layer's tokens, or its state as one.
Invariant: per payload 0 <= pushed <= computed, but for what the receiver has cached; a key is in the book exactly while
its transfer lives, and leaves it with exactly one of Acked and Ended. Whoever drives the book (threads: `outbox`, a
virtual clock: `cluster.simulator.outbox`) reads the blocks, moves the bytes and says what time it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from baton.errors import BatonError, UnavailableError
from workers.kv_transfer.handoff import HandoffError, Peer, State, is_failure, missing, move, turn_of
from workers.kv_transfer.link import Acked, Ended, OutboxEvent, Ticketed, TransferKey
from workers.model.contract import PayloadSpec, Unit

P = TypeVar("P", bound=Peer)


@dataclass(frozen=True, slots=True)
class Span:
    """Units [start, end) of payload number `index`, to be read from `block_ids` (the turn's, from unit 0 on)."""

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
class _Transfer(Generic[P]):
    key: TransferKey
    peer: P
    num_tokens: int
    deadline_s: float  # for the ticket; after the last range: for the ack
    computed: list[int]  # units, per payload
    pushed: list[int]  # units, per payload
    ready_nbytes: int = 0  # computed and not pushed
    state: State = State.OFFERED
    block_ids: Sequence[int] = ()
    state_ids: Sequence[int] = ()
    is_aborted: bool = False  # by the engine: what ends it is no error
    is_computed: bool = False  # all of the prompt is, by the engine's word
    first_tokens: tuple[tuple[int, int], ...] = ()
    num_ranges: int = 0
    is_closed: bool = False  # its last range has been taken and Complete told


class Outgoing(Generic[P]):
    """Args:
    payloads: What a sequence hands over.
    bulk: Push nothing before the prompt is computed.
    """

    def __init__(self, *, payloads: Sequence[PayloadSpec], lease_s: float, bulk: bool = False) -> None:
        self.num_failed = 0
        self._payloads = tuple(payloads)
        self._has_states = any(spec.unit is Unit.STATE for spec in payloads)
        self._turn = turn_of(payloads)
        self._of_layer: dict[int, list[int]] = {}
        for index, spec in enumerate(self._payloads):
            self._of_layer.setdefault(spec.layer, []).append(index)
        self._lease_s = lease_s
        self._bulk = bulk
        self._transfers: dict[TransferKey, _Transfer[P]] = {}
        self._events: list[OutboxEvent] = []

    def __len__(self) -> int:
        return len(self._transfers)

    def __contains__(self, key: TransferKey) -> bool:
        return key in self._transfers

    def peer_of(self, key: TransferKey) -> P | None:
        """None: its transfer has ended."""
        transfer = self._transfers.get(key)
        return transfer.peer if transfer is not None else None

    def keys_to(self, peer: P) -> list[TransferKey]:
        return [key for key, transfer in self._transfers.items() if transfer.peer == peer]

    def poll(self) -> list[OutboxEvent]:
        events, self._events = self._events, []
        return events

    # What the engine says.

    def offer(self, key: TransferKey, peer: P, *, num_tokens: int, timeout_s: float, now_s: float) -> None:
        """`timeout_s`: how long to wait for the ticket; 0: a lease."""
        assert key not in self._transfers, f"{key} is offered already"
        zeros = [0] * len(self._payloads)
        self._transfers[key] = _Transfer(
            key=key,
            peer=peer,
            num_tokens=num_tokens,
            deadline_s=now_s + (timeout_s or self._lease_s),
            computed=zeros,
            pushed=list(zeros),
        )

    def refuse(self, key: TransferKey, error: BatonError) -> None:
        """Instead of `offer`: there is no link that would take it."""
        assert key not in self._transfers, f"{key} is offered already"
        self._tell_ended(key, error)

    def computed(
        self,
        key: TransferKey,
        layer: int,
        num_tokens: int,
        block_ids: Sequence[int],
        state_ids: Sequence[int] = (),
    ) -> None:
        """Unknown keys are ignored: their transfer has ended. So are layers that hand nothing over here."""
        transfer = self._transfers.get(key)
        if transfer is None:
            return
        assert state_ids or not self._has_states, f"{key}: a model with states, and no place of this one's"
        for index in self._of_layer.get(layer, ()):
            spec, have = self._payloads[index], transfer.computed[index]
            num_final = spec.num_final(num_tokens, transfer.num_tokens)
            if num_final > have:
                transfer.computed[index] = num_final
                transfer.ready_nbytes += spec.unit_nbytes * max(0, num_final - max(have, transfer.pushed[index]))
        transfer.block_ids, transfer.state_ids = self._turn.blocks(block_ids), state_ids

    def complete(self, key: TransferKey, num_tokens: int, first_tokens: Sequence[tuple[int, int]]) -> None:
        """Raises: HandoffError: a layer has not computed so much, or another number was offered."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.is_computed:
            return
        told = f"{key.request_id}: complete with {num_tokens} tokens, but"
        if num_tokens != transfer.num_tokens:
            raise HandoffError(f"{told} {transfer.num_tokens} were offered")
        if what := missing(self._payloads, transfer.computed, num_tokens):
            raise HandoffError(f"{told} {what}")
        transfer.is_computed = True
        transfer.first_tokens = tuple(first_tokens)

    def abort(self, key: TransferKey) -> bool:
        """True, once: `end` is to follow. Whatever ends the transfer from now on is no error."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.is_aborted:
            return False
        transfer.is_aborted = True
        return True

    # What the peer says, and the clock.

    def ticket(self, key: TransferKey, num_cached_tokens: int) -> bool:
        """False: the key is gone or has its ticket, ignore this one."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state is not State.OFFERED:
            return False
        move(transfer, State.RESERVED)
        transfer.pushed = [spec.num_cached(num_cached_tokens) for spec in self._payloads]
        cursors = zip(self._payloads, transfer.computed, transfer.pushed, strict=True)
        transfer.ready_nbytes = sum(spec.unit_nbytes * max(0, done - sent) for spec, done, sent in cursors)
        self._events.append(Ticketed(key, num_cached_tokens))
        return True

    def end(self, key: TransferKey, state: State, error: BatonError | None = None) -> bool:
        """Forgets the key; with COMPLETE it was acked. False: it was gone, or acked before anything could be."""
        transfer = self._transfers.get(key)
        if transfer is None or (state is State.COMPLETE and not transfer.is_closed):
            return False
        move(transfer, state)
        del self._transfers[key]
        if state is State.COMPLETE:
            self._events.append(Acked(key))
        else:
            self._tell_ended(key, None if transfer.is_aborted else error)
        return True

    def overdue(self, key: TransferKey, now_s: float) -> UnavailableError | None:
        """What to `end` it with when its ticket or ack did not come in time; None: it is not, or has ended.

        While the engine computes there is no limit here.
        """
        transfer = self._transfers.get(key)
        if transfer is None or now_s < transfer.deadline_s:
            return None
        if transfer.state is not State.OFFERED and not transfer.is_closed:
            return None
        awaited = "blocks" if transfer.state is State.OFFERED else f"an ack for {self._lease_s:g} s"
        return UnavailableError(f"{key.request_id} waited for {awaited} of {transfer.peer.worker_id} in vain")

    # What to push.

    def is_ready(self, key: TransferKey, *, min_bytes: int = 0) -> bool:
        """Whether there is something to push: see `take`."""
        transfer = self._transfers.get(key)
        return transfer is not None and transfer.state is not State.OFFERED and self._may_push(transfer, min_bytes)

    def take(self, key: TransferKey, max_bytes: int, *, min_bytes: int = 0, is_first: bool = True) -> list[Span]:
        """Ranges to push next, at most `max_bytes` in all, or one unit if that is more; advances the cursors.

        Args:
            min_bytes: While the prompt is still being computed, less than this waits for more.
            is_first: Of a message; else a unit that is more waits for the next one.
        """
        transfer = self._transfers.get(key)
        if transfer is None or not self.is_ready(key, min_bytes=min_bytes):
            return []
        spans: list[Span] = []
        for index, (spec, pushed) in enumerate(zip(self._payloads, transfer.pushed, strict=True)):
            room = max(max_bytes // spec.unit_nbytes, int(is_first and not spans))
            end = min(transfer.computed[index], pushed + room)
            if end > pushed:
                block_ids = transfer.block_ids if spec.unit is Unit.TOKEN else transfer.state_ids
                spans.append(Span(key, index, pushed, end, block_ids))
                nbytes = (end - pushed) * spec.unit_nbytes
                max_bytes -= nbytes
                transfer.ready_nbytes -= nbytes
                transfer.pushed[index] = end
        transfer.num_ranges += len(spans)
        if spans and transfer.state is State.RESERVED:
            move(transfer, State.STREAMING)
        return spans

    def close(self, key: TransferKey, now_s: float) -> Closing | None:
        """Once, when the prompt is computed and every range was taken: what to tell. From now the ack is awaited."""
        transfer = self._transfers.get(key)
        if transfer is None or not transfer.is_computed or transfer.is_closed or transfer.state is State.OFFERED:
            return None
        if missing(self._payloads, transfer.pushed, transfer.num_tokens):
            return None
        transfer.is_closed = True
        transfer.deadline_s = now_s + self._lease_s
        return Closing(transfer.num_tokens, transfer.num_ranges, transfer.first_tokens)

    def _may_push(self, transfer: _Transfer[P], min_bytes: int) -> bool:
        if transfer.is_computed:
            return transfer.ready_nbytes > 0
        return not self._bulk and transfer.ready_nbytes >= max(1, min_bytes)

    def _tell_ended(self, key: TransferKey, error: BatonError | None) -> None:
        self.num_failed += is_failure(error)
        self._events.append(Ended(key, error))
