"""Which KV blocks hold nothing, and which of them to take so that a sequence's blocks lie side by side.

Blocks come in runs of `RUN`. A sequence that cannot go on in the next block starts a run that is wholly free, so
that sequences which grow at the same time do not take every other block. All operations are O(1).
"""

RUN = 16


class FreeBlocks:
    """A set of block ids out of [0, num_blocks), all of them at first."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        # Dicts for their order: `popitem` takes the newest entry, so the first blocks to go are the lowest.
        self._free = dict.fromkeys(range(num_blocks - 1, -1, -1))
        self._num_free_of_run = [min(RUN, num_blocks - start) for start in range(0, num_blocks, RUN)]
        self._whole_runs = dict.fromkeys(range(len(self._num_free_of_run) - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._free)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._free

    def take(self, after: int) -> int:
        """Removes and returns block `after` + 1 if it is free, else the first of a free run, else any; never empty."""
        block_id = after + 1
        if block_id not in self._free:
            if not self._whole_runs:
                block_id, _ = self._free.popitem()
                self._num_free_of_run[block_id // RUN] -= 1
                return block_id
            block_id = next(reversed(self._whole_runs)) * RUN
        del self._free[block_id]
        run = block_id // RUN
        self._whole_runs.pop(run, None)
        self._num_free_of_run[run] -= 1
        return block_id

    def add(self, block_id: int) -> None:
        assert block_id not in self._free, f"block {block_id} is free already"
        self._free[block_id] = None
        run = block_id // RUN
        self._num_free_of_run[run] += 1
        if self._num_free_of_run[run] == min(RUN, self._num_blocks - run * RUN):
            self._whole_runs[run] = None
