"""Blocks of a model some of whose layers keep a state: with its blocks each sequence gets a slot, and gives it back.

The prefix cache keeps, beside blocks, the states at every `state_spacing` tokens: a hit reaches to the last of them,
and its state is copied into the sequence's own slot. A state goes when its block goes, or before. Sequences that come
from another worker bring their state: for them cached blocks alone are a hit.
"""

from collections.abc import Callable, Hashable, Iterable
from collections.abc import Sequence as List

from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.sequence import Sequence
from workers.engine.state_slots import StateSlots
from workers.memory_shares import MemoryShares

CopyStates = Callable[[List[tuple[int, int]]], None]


def new_blocks(shares: MemoryShares, *, block_size: int, prefix_cache: bool, copy_states: CopyStates) -> BlockManager:
    """For a worker whose memory is shared out so; with slots where its model keeps states."""
    if not shares.num_states:
        return BlockManager(num_blocks=shares.num_blocks, block_size=block_size, prefix_cache=prefix_cache)
    return StatefulBlocks(
        num_blocks=shares.num_blocks,
        block_size=block_size,
        prefix_cache=prefix_cache,
        num_states=shares.num_states,
        state_spacing=shares.state_spacing,
        copy_states=copy_states,
    )


class StatefulBlocks(BlockManager):
    """
    Args:
        num_states: Slots, >= 1.
        state_spacing: Tokens between cached states, a multiple of the block size; None: none is cached.
        copy_states: Copies states, (from, to) each, before it returns.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        prefix_cache: bool,
        num_states: int,
        state_spacing: int | None,
        copy_states: CopyStates,
    ) -> None:
        assert state_spacing is None or state_spacing % block_size == 0, f"{state_spacing} tokens are no whole blocks"
        self.slots = StateSlots(num_states)
        self.state_spacing = state_spacing if prefix_cache else None
        self._copy_states = copy_states
        super().__init__(num_blocks=num_blocks, block_size=block_size, prefix_cache=prefix_cache)
        self._resumable: set[int] = set()  # hashes of known blocks that a cached state followed once

    @property
    def num_states(self) -> int:
        return self.slots.num_states

    @property
    def num_free_states(self) -> int:
        """Free, or of the prefix cache."""
        return self.slots.num_free

    @property
    def has_slot(self) -> bool:
        return self.slots.num_free > 0

    def allocate(self, seq: Sequence, *, brings_state: bool = False) -> int:
        num_cached = super().allocate(seq, brings_state=brings_state)
        last = seq.block_hashes[num_cached // self.block_size - 1] if num_cached and not brings_state else None
        source = self.slots.find(last) if last is not None else None
        assert last is None or source is not None, f"{seq.key}: a hit of {num_cached} tokens without a state"
        slot = self.slots.take()
        seq.state_ids = [slot]
        if source not in (None, slot):  # else it was the last one cached: its content is where it should be
            self._copy_states([(source, slot)])
        return num_cached

    def commit(self, seq: Sequence) -> None:
        super().commit(seq)
        spacing, num_tokens = self.state_spacing, seq.num_computed_tokens
        if spacing is None or not num_tokens or num_tokens % spacing:
            return
        last = seq.block_hashes[num_tokens // self.block_size - 1]
        if last in self.slots or not self.is_known(last):
            return
        slot = self.slots.remember(last)
        if slot is not None:
            self._copy_states([(seq.state_ids[0], slot)])
            self._tell_resumable(seq.block_hashes[: num_tokens // self.block_size])

    def fork(self, parent: Sequence, child: Sequence, num_tokens: int | None = None) -> list[tuple[int, int]]:
        assert num_tokens is None, "a state is that of all computed tokens"
        if not self.has_slot:
            raise OutOfBlocksError("no slot for the state is free")
        pairs = super().fork(parent, child)
        child.state_ids = [self.slots.take()]
        self._copy_states([(parent.state_ids[0], child.state_ids[0])])
        return pairs

    def _let_go(self, block_ids: list[int], state_ids: list[int]) -> None:
        super()._let_go(block_ids, state_ids)
        for slot in state_ids:
            self.slots.release(slot)

    def quarantine(self, seq: Sequence, key: Hashable | None = None) -> None:
        super().quarantine(seq, key)
        for slot in seq.state_ids:
            self.slots.quarantine(slot, seq.key if key is None else key)
        seq.state_ids = []

    def release_quarantine(self, key: Hashable) -> None:
        super().release_quarantine(key)
        self.slots.release_quarantine(key)

    def check_integrity(self, sequences: Iterable[Sequence] | None = None) -> None:
        super().check_integrity(sequences)
        self.slots.check_integrity()

    def _cached_prefix(self, seq: Sequence, *, brings_state: bool) -> list[int]:
        matched = super()._cached_prefix(seq, brings_state=brings_state)
        if brings_state:
            return matched
        step = (self.state_spacing or self.block_size) // self.block_size
        for num_blocks in range(len(matched) // step * step, 0, -step):
            if seq.block_hashes[num_blocks - 1] in self.slots:
                return matched[:num_blocks]
        return []

    # Routers are told of the blocks that a hit may reach: those that a cached state follows.

    def _tell_added(self, block_hash: int) -> None:
        """Not before there is a state after it."""

    def _tell_resumable(self, hashes: List[int]) -> None:
        for block_hash in reversed(hashes):
            if block_hash in self._resumable:
                return
            self._resumable.add(block_hash)
            super()._tell_added(block_hash)

    def _tell_removed(self, block_hash: int) -> None:
        self.slots.forget(block_hash)
        if block_hash in self._resumable:
            self._resumable.remove(block_hash)
            super()._tell_removed(block_hash)
