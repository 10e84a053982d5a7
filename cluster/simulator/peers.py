"""What the two sides of a path between simulated workers ask of each other, and what one range's way over it is."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from baton.errors import BatonError
from baton.v1.worker_pb2 import Submit
from cluster.router.workers import WorkerKey
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Closing, Span


class Passage(NamedTuple):
    """One range's way over a path, message by message; between two of them the sender has time for other words."""

    first_s: float  # when the first message leaves
    last_s: float  # when the last one does
    message_s: float  # what each takes
    arrival_s: float  # when all is in the receiver's blocks


class PeerSide(Protocol):
    def peer_is_down(self, peer: WorkerKey) -> None:
        """Its death is known."""
        ...


class PeerOutbox(PeerSide, Protocol):
    """The prefill side, as the decode side and the path see it. Messages are pairs where they say two things."""

    def ticketed(self, ticket: tuple[TransferKey, int]) -> None:
        """There are blocks for the prompt, of whose tokens so many are cached."""
        ...

    def acked(self, key: TransferKey) -> None:
        """All has arrived."""
        ...

    def failed(self, failure: tuple[TransferKey, BatonError]) -> None: ...


class PeerInbox(PeerSide, Protocol):
    """The decode side, as the prefill side and the path see it."""

    def offered(self, peer: WorkerKey, key: TransferKey, submit: Submit, ingress_id: str) -> None: ...

    def expect(self, key: TransferKey, passage: Passage, spans: Sequence[Span], closing: Closing | None) -> None:
        """A range, or the closing word, is on its way; never before what was sent before it."""
        ...

    def sender_aborted(self, key: TransferKey) -> None: ...

    def peer_is_silent(self, peer: WorkerKey) -> None:
        """It is dead, and nobody knows."""
        ...
