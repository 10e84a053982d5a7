"""Which worker holds which blocks of KV in its prefix cache, as far as their load reports told.

Invariant: a worker is among a hash's holders exactly when the hash is among the worker's blocks; at most
`max_blocks` pairs in all. A hint, not a promise: the worker may have evicted a block since. The names of blocks come
from `workers.engine.block_hash`.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

SLACK = 256  # of the blocks, so much is dropped at once when there is no more room


class PrefixIndex:
    """Sets keep their order, as dicts without values or as tuples, so that a run is the same for the same seed."""

    def __init__(self, *, max_blocks: int = 2_000_000) -> None:
        self._max_blocks = max_blocks
        self._num_blocks = 0
        self._blocks: dict[str, dict[int, None]] = {}  # worker -> hashes, oldest report first
        self._holders: dict[int, tuple[str, ...]] = {}  # hash -> workers; most have one, and share its tuple

    @property
    def num_blocks(self) -> int:
        """(worker, block) pairs held."""
        return self._num_blocks

    def update(self, worker_id: str, *, added: Iterable[int], removed: Iterable[int]) -> None:
        """Applies one load report. A hash in both was removed and came back."""
        blocks, holders = self._blocks.setdefault(worker_id, {}), self._holders
        self._drop(worker_id, removed)
        num_held, alone = len(blocks), (worker_id,)
        for block_hash in added:
            if block_hash not in blocks:
                blocks[block_hash] = None
                others = holders.get(block_hash)
                holders[block_hash] = alone if others is None else others + alone
        self._num_blocks += len(blocks) - num_held
        if self._num_blocks > self._max_blocks:
            self._make_room(keep=worker_id)
        if not blocks:
            del self._blocks[worker_id]

    def forget(self, worker_id: str) -> None:
        """The worker is gone, or begins anew with its whole cache in the next report. Idempotent."""
        if worker_id in self._blocks:
            self._drop(worker_id, list(self._blocks[worker_id]))
            del self._blocks[worker_id]

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

    def _drop(self, worker_id: str, hashes: Iterable[int]) -> None:
        """Those of `hashes` that the worker holds."""
        blocks, holders = self._blocks[worker_id], self._holders
        num_held = len(blocks)
        for block_hash in hashes:
            if block_hash in blocks:
                del blocks[block_hash]
                workers = holders[block_hash]
                if len(workers) == 1:
                    del holders[block_hash]
                else:
                    holders[block_hash] = tuple(worker for worker in workers if worker != worker_id)
        self._num_blocks -= num_held - len(blocks)

    def _make_room(self, keep: str) -> None:
        """Drops the oldest blocks of the workers with the most, down to a share each.

        Some more than needed, so that it pays to look at all workers. The row of `keep` stays even when it is empty.
        """
        target = self._max_blocks - self._max_blocks // SLACK
        share = target // len(self._blocks)
        for worker_id in sorted(self._blocks, key=lambda worker: len(self._blocks[worker]), reverse=True):
            blocks = self._blocks[worker_id]
            num_dropped = min(len(blocks) - share, self._num_blocks - target)
            if num_dropped <= 0:
                return
            self._drop(worker_id, list(islice(blocks, num_dropped)))
            if not blocks and worker_id != keep:
                del self._blocks[worker_id]
