"""Counts, references and frees KV blocks on one worker, and remembers what full blocks hold (the prefix cache).

Invariant: free + cached + referenced + quarantined == num_blocks; see `check_integrity`. A block is cached when its
content is known by hash and nobody references it; cached blocks are given out again, least recently used first, once
no block is free. No tensors here: those belong to the runner. Which sequence gets blocks is the scheduler's business.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import ClassVar

from baton.errors import BatonError
from workers.engine.block_hash import next_hash
from workers.engine.cache_changes import CacheChanges
from workers.engine.free_blocks import FreeBlocks
from workers.engine.sequence import Sequence


class OutOfBlocksError(BatonError):
    """Too few blocks now; nothing was taken. Worth another try when others have finished."""

    code: ClassVar[str] = "out_of_blocks"
    http_status: ClassVar[int] = 503
    grpc_status: ClassVar[str] = "RESOURCE_EXHAUSTED"
    retryable: ClassVar[bool] = True


class BlockManager:
    """Everything costs O(blocks touched). Not thread-safe: the engine's thread owns it.

    Args:
        num_blocks: Blocks in the pool, >= 1; ids are [0, num_blocks).
        block_size: Tokens per block, >= 1.
        prefix_cache: False: full blocks are forgotten when they are freed.
    """

    def __init__(self, *, num_blocks: int, block_size: int, prefix_cache: bool) -> None:
        assert num_blocks >= 1, f"num_blocks {num_blocks}: a pool needs one at least"
        assert block_size >= 1, f"block_size {block_size}: a block holds one token at least"
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self._free = FreeBlocks(num_blocks)
        self._num_references = [0] * num_blocks
        self._hash_of: dict[int, int] = {}  # block id -> hash, of the blocks that the cache knows
        self._block_of: dict[int, int] = {}  # hash -> block id, its inverse
        self._lru: OrderedDict[int, None] = OrderedDict()  # cached, unreferenced; next to be evicted first
        self._quarantined: dict[Hashable, list[int]] = {}
        self._leaving: dict[int, list[tuple[list[int], list[int]]]] = {}  # by step, blocks and slots of who was freed
        self._num_quarantined = 0
        self._num_referenced = 0
        self._changes = CacheChanges()

    @property
    def num_free_blocks(self) -> int:
        """Blocks that `grow` may take: those that hold nothing, and those cached and unreferenced."""
        return len(self._free) + len(self._lru)

    @property
    def num_referenced_blocks(self) -> int:
        return self._num_referenced

    @property
    def num_cached_blocks(self) -> int:
        """Known by hash and unreferenced."""
        return len(self._lru)

    @property
    def num_quarantined_blocks(self) -> int:
        return self._num_quarantined

    @property
    def num_states(self) -> int:
        return 0  # slots that sequences hold beside blocks: here they need none

    @property
    def num_free_states(self) -> int:
        return 0

    @property
    def has_slot(self) -> bool:
        """Whether one more sequence may hold what it needs beside blocks."""
        return True

    def is_known(self, block_hash: int) -> bool:
        """To the prefix cache, referenced or not."""
        return block_hash in self._block_of

    def admission_cost(self, seq: Sequence, *, brings_state: bool = False) -> tuple[int, int]:
        """For a sequence without blocks: its cached tokens, and what all its tokens would take of `num_free_blocks`."""
        matched = self._cached_prefix(seq, brings_state=brings_state)
        num_referenced = sum(1 for block_id in matched if self._num_references[block_id])
        num_blocks = -(-seq.num_tokens // self.block_size)
        return len(matched) * self.block_size, num_blocks - num_referenced

    def allocate(self, seq: Sequence, *, brings_state: bool = False) -> int:
        """References the cached prefix of a sequence without blocks, takes no other block.

        Sets its blocks, hashes and cursors. Returns the number of cached tokens, a multiple of the block size.

        Args:
            brings_state: Another worker sends the state that some models keep of a sequence.
        """
        assert not seq.block_ids, f"{seq.key} holds {len(seq.block_ids)} blocks already"
        matched = self._cached_prefix(seq, brings_state=brings_state)
        for block_id in matched:
            self._reference(block_id)
        seq.block_ids = matched
        seq.num_committed_blocks = len(matched)
        seq.num_computed_tokens = seq.num_cached_tokens = len(matched) * self.block_size
        return seq.num_cached_tokens

    def num_missing_blocks(self, seq: Sequence, num_tokens: int) -> int:
        """Blocks beyond those held that `seq` needs to hold `num_tokens` tokens; compare with `num_free_blocks`."""
        return max(-(-num_tokens // self.block_size) - len(seq.block_ids), 0)

    def grow(self, seq: Sequence, num_tokens: int) -> None:
        """Takes blocks until `seq` can hold `num_tokens` tokens; all or nothing.

        Raises:
            OutOfBlocksError: Too few; nothing was taken.
        """
        self._take(self.num_missing_blocks(seq, num_tokens), seq.block_ids)

    def shrink(self, seq: Sequence, num_tokens: int) -> None:
        """Gives back what `seq` holds beyond blocks for its first `num_tokens` tokens, all computed ones at least."""
        num_kept = -(-num_tokens // self.block_size)
        spare = seq.block_ids[num_kept:]
        del seq.block_ids[num_kept:]
        for block_id in reversed(spare):
            self._dereference(block_id)

    def commit(self, seq: Sequence) -> None:
        """After a step: makes the blocks that are full of computed tokens now known to the prefix cache.

        A block whose content is cached under another id already stays private.
        """
        num_full = seq.num_computed_tokens // self.block_size
        if num_full <= seq.num_committed_blocks or not self.prefix_cache:
            return
        hashes = self._hashes(seq)
        for index in range(seq.num_committed_blocks, num_full):
            block_id, block_hash = seq.block_ids[index], hashes[index]
            if block_hash not in self._block_of and block_id not in self._hash_of:
                self._hash_of[block_id] = block_hash
                self._block_of[block_hash] = block_id
                self._tell_added(block_hash)
        seq.num_committed_blocks = num_full

    def fork(self, parent: Sequence, child: Sequence, num_tokens: int | None = None) -> list[tuple[int, int]]:
        """Lets `child`, which has the same first `num_tokens` tokens, share the parent's blocks that these fill.

        Args:
            num_tokens: At most `parent.num_computed_tokens`; None: so many.
        Returns:
            (source, target) of the block to copy, if the last one is filled in part; the target is the child's own.
        Raises:
            OutOfBlocksError: No block for the copy; nothing was taken.
        """
        assert not child.block_ids, f"{child.key} holds {len(child.block_ids)} blocks already"
        num_tokens = parent.num_computed_tokens if num_tokens is None else num_tokens
        num_full, num_left = divmod(num_tokens, self.block_size)
        copies: list[int] = []
        if num_left:
            self._take(1, copies)
        shared = parent.block_ids[:num_full]
        for block_id in shared:
            self._reference(block_id)
        child.block_ids = shared + copies
        child.block_hashes = parent.block_hashes[:num_full]
        child.num_committed_blocks = min(parent.num_committed_blocks, num_full)
        child.num_computed_tokens = num_tokens
        child.num_cached_tokens = parent.num_cached_tokens
        return [(parent.block_ids[num_full], copy) for copy in copies]

    def free(self, seq: Sequence) -> None:
        """Drops the sequence's references and sets its cursors to 0; idempotent. Known blocks stay cached.

        Where a step that was launched uses them, they stay referenced until it has `landed`.
        """
        if seq.last_step is None:
            self._let_go(seq.block_ids, seq.state_ids)
        else:
            self._leaving.setdefault(seq.last_step, []).append((seq.block_ids, seq.state_ids))
        seq.state_ids = []
        self._forget(seq)

    def landed(self, step: int) -> None:
        """That step is done, and all before it."""
        for block_ids, state_ids in self._leaving.pop(step, ()):
            self._let_go(block_ids, state_ids)

    def _let_go(self, block_ids: list[int], state_ids: list[int]) -> None:
        for block_id in reversed(block_ids):  # so that a prefix outlives what follows it
            self._dereference(block_id)

    def quarantine(self, seq: Sequence, key: Hashable | None = None) -> None:
        """Sets aside the blocks that a transfer may still write to: those of `seq` that are its own and not known.

        References to all others are dropped at once. Afterwards the sequence holds nothing.

        Args:
            key: What `release_quarantine` will be told; None: `seq.key`.
        """
        own: list[int] = []
        for block_id in reversed(seq.block_ids):
            if self._num_references[block_id] == 1 and block_id not in self._hash_of:
                self._num_references[block_id] = 0
                self._num_referenced -= 1
                own.append(block_id)
            else:
                self._dereference(block_id)
        if own:
            self._quarantined.setdefault(seq.key if key is None else key, []).extend(own)
            self._num_quarantined += len(own)
        self._forget(seq)

    def release_quarantine(self, key: Hashable) -> None:
        """No write is in flight any more: the blocks are free. Idempotent."""
        for block_id in self._quarantined.pop(key, ()):
            self._num_quarantined -= 1
            self._free.add(block_id)

    def drain_cache_events(self) -> tuple[list[int], list[int]]:
        """Hashes that the cache (referenced or not) has gained and lost since the last call, net."""
        return self._changes.drain()

    def check_integrity(self, sequences: Iterable[Sequence] | None = None) -> None:
        """Raises AssertionError that names what is off.

        Args:
            sequences: All sequences that hold blocks; given, every reference must be one of theirs.
        """
        total = len(self._free) + len(self._lru) + self._num_referenced + self._num_quarantined
        assert total == self.num_blocks, (
            f"free {len(self._free)} + cached {len(self._lru)} + referenced {self._num_referenced} + quarantined "
            f"{self._num_quarantined} = {total}, not {self.num_blocks}"
        )
        referenced = {block_id for block_id, count in enumerate(self._num_references) if count > 0}
        assert min(self._num_references) >= 0, "a block has fewer than no references"
        assert len(referenced) == self._num_referenced, f"{len(referenced)} referenced, counted {self._num_referenced}"
        quarantined = [block_id for block_ids in self._quarantined.values() for block_id in block_ids]
        assert len(quarantined) == self._num_quarantined, f"{len(quarantined)} quarantined, not {self._num_quarantined}"
        held = [*referenced, *self._lru, *quarantined]
        assert len(set(held)) == len(held), "a block is in two states"
        assert not any(block_id in self._free for block_id in held), "a block is free and held"
        assert {block_id: key for key, block_id in self._block_of.items()} == self._hash_of, "the cache's maps differ"
        strange = [b for b in self._hash_of if b not in referenced and b not in self._lru]
        assert not strange, f"blocks {strange} are known by hash but neither referenced nor cached"
        assert all(block_id in self._hash_of for block_id in self._lru), "a cached block has no hash"
        if sequences is not None:
            counts = [0] * self.num_blocks
            leaving = [block_ids for freed in self._leaving.values() for block_ids, _ in freed]
            for block_ids in (*leaving, *(seq.block_ids for seq in sequences)):
                for block_id in block_ids:
                    counts[block_id] += 1
            wrong = [b for b in range(self.num_blocks) if counts[b] != self._num_references[b]]
            assert not wrong, f"blocks {wrong}: {[counts[b] for b in wrong]} holders, not as many references"

    def _hashes(self, seq: Sequence) -> list[int]:
        """Brings the sequence's hashes up to all full blocks of its tokens."""
        hashes = seq.block_hashes
        if not self.prefix_cache:
            return hashes
        size = self.block_size
        for index in range(len(hashes), seq.num_tokens // size):
            hashes.append(
                next_hash(hashes[-1] if hashes else seq.root_hash, seq.tokens(index * size, (index + 1) * size))
            )
        return hashes

    def _cached_prefix(self, seq: Sequence, *, brings_state: bool) -> list[int]:
        """The blocks of a sequence's first tokens that the cache knows, but for tokens that must be computed again."""
        matched: list[int] = []
        if not self.prefix_cache:
            return matched
        hashes = self._hashes(seq)
        for index in range(min(len(hashes), seq.num_reusable_tokens // self.block_size)):
            block_id = self._block_of.get(hashes[index])
            if block_id is None:
                break
            matched.append(block_id)
        return matched

    def _take(self, num_blocks: int, block_ids: list[int]) -> None:
        """Appends blocks to `block_ids`, each after its predecessor where that is free; all or nothing."""
        if num_blocks > self.num_free_blocks:
            raise OutOfBlocksError(f"need {num_blocks} blocks, {self.num_free_blocks} free")
        for _ in range(num_blocks - len(self._free)):
            self._evict()
        for _ in range(num_blocks):
            block_id = self._free.take(block_ids[-1] if block_ids else self.num_blocks)
            self._num_references[block_id] = 1
            block_ids.append(block_id)
        self._num_referenced += num_blocks

    def _evict(self) -> None:
        block_id, _ = self._lru.popitem(last=False)
        block_hash = self._hash_of.pop(block_id)
        del self._block_of[block_hash]
        self._tell_removed(block_hash)
        self._free.add(block_id)

    def _tell_added(self, block_hash: int) -> None:
        self._changes.add(block_hash)

    def _tell_removed(self, block_hash: int) -> None:
        self._changes.remove(block_hash)

    def _reference(self, block_id: int) -> None:
        if self._num_references[block_id] == 0:
            del self._lru[block_id]
            self._num_referenced += 1
        self._num_references[block_id] += 1

    def _dereference(self, block_id: int) -> None:
        self._num_references[block_id] -= 1
        if self._num_references[block_id]:
            return
        self._num_referenced -= 1
        if block_id in self._hash_of:
            self._lru[block_id] = None
        else:
            self._free.add(block_id)

    @staticmethod
    def _forget(seq: Sequence) -> None:
        seq.block_ids = []  # a new list: a transfer may still look at the old one
        seq.num_computed_tokens = 0
        seq.num_committed_blocks = 0
