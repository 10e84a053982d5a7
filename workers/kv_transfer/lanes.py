"""Which rank of a prefill gang sends which heads of which blocks to which rank of a decode gang. Pure.

A lane joins one rank to one rank and is a link of its own. What it moves of a layer is an interval of heads: those that
both ranks hold. Invariant: each head that a receiving rank holds reaches it by exactly one lane; where several sending
ranks hold the head, they take turns over the ranks that want it. Where the sending ranks read prompts together, each
head's blocks come by one lane of each turn instead, the state by the last turn's.
"""

from collections.abc import Iterable
from typing import NamedTuple

from workers.model.places import EVERY_BLOCK, Degrees, Place, Turn


class Lane(NamedTuple):
    sender: Place
    receiver: Place
    turn: Turn = EVERY_BLOCK

    def __str__(self) -> str:
        taking = f", {self.turn}" if self.turn.num_turns > 1 else ""
        return f"{self.sender} to {self.receiver}{taking}"

    @property
    def senders(self) -> Degrees:
        """Of the whole gang."""
        return Degrees(self.sender.degree, self.turn.num_turns)

    @property
    def sending_rank(self) -> int:
        """The inverse of `Degrees.place_of` and `turn_of`."""
        return self.turn.number * self.sender.degree + self.sender.rank

    @property
    def joins_leaders(self) -> bool:
        return self.sending_rank == self.receiver.rank == 0

    def heads(self, num_heads: int) -> range:
        """Which of a layer's `num_heads` heads it moves; empty: none. Implements `HeadsOf`."""
        held, wanted = self.sender.heads(num_heads), self.receiver.heads(num_heads)
        both = range(max(held.start, wanted.start), min(held.stop, wanted.stop))
        return both if both and self._is_its_turn(num_heads) else range(0)

    def _is_its_turn(self, num_heads: int) -> bool:
        """Replicas of a head are neighbours on either side: the k-th that wants it is served by the k-th that has it,
        spread evenly where the numbers differ."""
        have, want = self.sender.num_replicas(num_heads), self.receiver.num_replicas(num_heads)
        return self.sender.rank % have == self.receiver.rank % want * have // want


def lanes(senders: Degrees, num_receivers: int, head_counts: Iterable[int]) -> tuple[Lane, ...]:
    """Those that move anything between gangs of so many ranks, of a model whose layers have such numbers of heads."""
    counts = frozenset(head_counts)
    every = (
        Lane(senders.place_of(sender), Place(receiver, num_receivers), senders.turn_of(sender))
        for receiver in range(num_receivers)
        for sender in range(senders.size)
    )
    return tuple(lane for lane in every if any(lane.heads(count) for count in counts))
