"""Counts, holds and frees the slots of states on one worker, and remembers states of prefixes by their blocks' hashes.

Invariant: free + held + cached + quarantined == num_states; see `check_integrity`. A sequence holds one slot from its
admission to its end. Cached states are given up, least recently used first, once no slot is free. No tensors here.
"""

from collections import OrderedDict
from collections.abc import Hashable


class StateSlots:
    """Everything is O(1). Not thread-safe.

    Args:
        num_states: Slots in the pool, >= 1; ids are [0, num_states).
    """

    def __init__(self, num_states: int) -> None:
        assert num_states >= 1, f"num_states {num_states}: a pool needs one at least"
        self.num_states = num_states
        self._free = list(range(num_states - 1, -1, -1))
        self._held: set[int] = set()
        self._cached: OrderedDict[int, int] = OrderedDict()  # hash of the last block -> slot; first to go first
        self._quarantined: dict[Hashable, int] = {}

    @property
    def num_free(self) -> int:
        """Slots that `take` may give: those that hold nothing, and those of cached states."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    def take(self) -> int:
        """A slot to hold; there must be one."""
        if not self._free:
            self._free.append(self._cached.popitem(last=False)[1])
        slot = self._free.pop()
        self._held.add(slot)
        return slot

    def release(self, slot: int) -> None:
        self._held.remove(slot)
        self._free.append(slot)

    def quarantine(self, slot: int, key: Hashable) -> None:
        """Held, and a transfer may still write to it until `release_quarantine`."""
        self._held.remove(slot)
        self._quarantined[key] = slot

    def release_quarantine(self, key: Hashable) -> None:
        """Idempotent."""
        slot = self._quarantined.pop(key, None)
        if slot is not None:
            self._free.append(slot)

    def find(self, block_hash: int) -> int | None:
        """The slot of the state after the block of that hash; it is the last to go now."""
        slot = self._cached.get(block_hash)
        if slot is not None:
            self._cached.move_to_end(block_hash)
        return slot

    def __contains__(self, block_hash: int) -> bool:
        return block_hash in self._cached

    def remember(self, block_hash: int) -> int | None:
        """A slot for the state after the block of that hash, which is not known yet; None: all are held."""
        assert block_hash not in self._cached, "its state is known already"
        if not self.num_free:
            return None
        slot = self._free.pop() if self._free else self._cached.popitem(last=False)[1]
        self._cached[block_hash] = slot
        return slot

    def forget(self, block_hash: int) -> None:
        """The block is known no more. Idempotent."""
        slot = self._cached.pop(block_hash, None)
        if slot is not None:
            self._free.append(slot)

    def check_integrity(self) -> None:
        """Raises AssertionError that names what is off."""
        slots = [*self._free, *self._held, *self._cached.values(), *self._quarantined.values()]
        assert len(set(slots)) == len(slots), "a slot is in two states"
        assert len(slots) == self.num_states, (
            f"free {len(self._free)} + held {len(self._held)} + cached {len(self._cached)} + quarantined "
            f"{len(self._quarantined)} slots = {len(slots)}, not {self.num_states}"
        )
