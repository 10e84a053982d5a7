"""Which worker holds which blocks of KV in its prefix cache, as far as their load reports told.

Invariant: a worker is among a hash's holders exactly when the hash is among the worker's blocks; at most
`max_blocks` pairs in all. A hint, not a promise: the worker may have evicted a block since. The names of blocks come
from `workers.engine.block_hash`.
"""

from collections.abc import Iterable, Sequence
from itertools import islice


class PrefixIndex:
    """Dicts without values stand for sets that keep their order, so that a run is the same for the same seed."""

    def __init__(self, *, max_blocks: int = 2_000_000) -> None:
        self._max_blocks = max_blocks
        self._num_blocks = 0
        self._blocks: dict[str, dict[int, None]] = {}  # worker -> hashes, oldest report first
        self._holders: dict[int, dict[str, None]] = {}  # hash -> workers

    @property
    def num_blocks(self) -> int:
        """(worker, block) pairs held."""
        return self._num_blocks

    def update(self, worker_id: str, *, added: Iterable[int], removed: Iterable[int]) -> None:
        """Applies one load report. A hash in both was removed and came back."""
        blocks = self._blocks.setdefault(worker_id, {})
        for block_hash in removed:
            if block_hash in blocks:
                self._drop(worker_id, block_hash)
        for block_hash in added:
            if block_hash not in blocks:
                blocks[block_hash] = None
                self._holders.setdefault(block_hash, {})[worker_id] = None
                self._num_blocks += 1
        while self._num_blocks > self._max_blocks:
            self._make_room(worker_id)
        if not blocks:
            del self._blocks[worker_id]

    def forget(self, worker_id: str) -> None:
        """The worker is gone, or begins anew with its whole cache in the next report. Idempotent."""
        for block_hash in list(self._blocks.get(worker_id, ())):
            self._drop(worker_id, block_hash)
        self._blocks.pop(worker_id, None)

    def match(self, worker_id: str, hashes: Sequence[int]) -> int:
        """How many leading blocks of `hashes` the worker holds."""
        blocks = self._blocks.get(worker_id)
        if not blocks:
            return 0
        for count, block_hash in enumerate(hashes):
            if block_hash not in blocks:
                return count
        return len(hashes)

    def holders(self, hashes: Sequence[int], limit: int) -> list[str]:
        """Up to `limit` workers that hold the last block of `hashes` that any worker holds."""
        if not self._holders:
            return []
        for block_hash in reversed(hashes):
            workers = self._holders.get(block_hash)
            if workers:
                return list(islice(workers, limit))
        return []

    def check_integrity(self) -> None:
        pairs = {(worker, block) for worker, blocks in self._blocks.items() for block in blocks}
        assert pairs == {(worker, block) for block, workers in self._holders.items() for worker in workers}
        assert len(pairs) == self._num_blocks <= self._max_blocks
        assert all(self._holders.values())

    def _drop(self, worker_id: str, block_hash: int) -> None:
        del self._blocks[worker_id][block_hash]
        workers = self._holders[block_hash]
        del workers[worker_id]
        if not workers:
            del self._holders[block_hash]
        self._num_blocks -= 1

    def _make_room(self, worker_id: str) -> None:
        """Drops the oldest blocks of `worker_id` if it has more than its share, else those of the largest."""
        share = self._max_blocks // len(self._blocks)
        largest = worker_id
        if len(self._blocks[worker_id]) <= share:
            largest = max(self._blocks, key=lambda worker: len(self._blocks[worker]))
        surplus = max(len(self._blocks[largest]) - share, 1)
        for block_hash in list(islice(self._blocks[largest], min(surplus, self._num_blocks - self._max_blocks))):
            self._drop(largest, block_hash)
        if not self._blocks[largest] and largest != worker_id:
            del self._blocks[largest]
