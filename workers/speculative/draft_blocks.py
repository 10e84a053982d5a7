"""Whose KV the blocks of a draft model hold, and how far it is that of the text.

Invariant: each block is free or one sequence's; see `check_integrity`. No tensors and no model here.

What a draft model computes while it drafts stands on guesses. When the text is known it is rolled back to the tokens
that proved right, and what is missing is computed again from the text (EasySpec's bonus calibration).
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Followed:
    """One sequence in a draft model's blocks. Changed by its drafter.

    Attributes:
        num_computed: KV of [0, num_computed) is that of the text.
        num_known: Tokens that the text had when `drafted` was written.
        drafted: Tokens whose KV stands at positions num_known, num_known + 1, ...
    """

    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_known: int = 0
    drafted: Sequence[int] = ()
    used_in: int = 0  # the last round that needed it

    def settle(self, since_known: Sequence[int], *, keeps_drafted: bool) -> None:
        """The text goes on after `num_known` with `since_known`.

        Args:
            keeps_drafted: KV of drafted tokens that proved right counts: it was computed as that of the text is.
        """
        if keeps_drafted and self.num_computed == self.num_known:
            for drafted, token_id in zip(self.drafted, since_known, strict=False):
                if drafted != token_id:
                    break
                self.num_computed += 1
        self.drafted = ()


class DraftBlocks:
    """A free list, and sequences in the order in which they were last used. Of one thread."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._followed: dict[Hashable, Followed] = {}  # the one that was used longest ago first
        self._round = 0

    def __len__(self) -> int:
        return len(self._followed)

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def begin_round(self) -> None:
        """What is asked for from now on stays until the next round."""
        self._round += 1

    def get(self, key: Hashable) -> Followed | None:
        return self._followed.get(key)

    def follow(self, key: Hashable) -> Followed:
        """The sequence `key`, which this round needs; a new one has no blocks yet."""
        followed = self._followed.pop(key, None) or Followed()
        followed.used_in = self._round
        self._followed[key] = followed
        return followed

    def reach(self, followed: Followed, num_tokens: int) -> int:
        """Blocks for its first `num_tokens` tokens, as far as there are any; others lose theirs, those first that were
        used longest ago, but none of this round. Returns how many of the tokens the blocks hold."""
        missing = -(-num_tokens // self.block_size) - len(followed.block_ids)
        while missing > len(self._free) and self._evict():
            pass
        for _ in range(min(missing, len(self._free))):
            followed.block_ids.append(self._free.pop())
        return min(num_tokens, len(followed.block_ids) * self.block_size)

    def forget(self, key: Hashable) -> None:
        """It has ended, or is not known."""
        followed = self._followed.pop(key, None)
        if followed is not None:
            self._free += reversed(followed.block_ids)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forgets all others."""
        for key in [key for key in self._followed if key not in keys]:
            self.forget(key)

    def _evict(self) -> bool:
        """Whether there was one to forget."""
        key = next(iter(self._followed), None)
        if key is None or self._followed[key].used_in == self._round:
            return False
        self.forget(key)
        return True

    def check_integrity(self) -> None:
        held = [block for followed in self._followed.values() for block in followed.block_ids]
        assert sorted([*held, *self._free]) == list(range(self.num_blocks)), "a block is lost, or is two sequences'"
