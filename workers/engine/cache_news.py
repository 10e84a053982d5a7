"""What one reader of a worker's load reports has not been told of its prefix cache, numbered so that a gap is seen.

Invariant: a reader that applies the reports from number 1 on, each once and in order, holds what the cache holds.
"""

from collections.abc import Iterable

from baton.v1.worker_pb2 import WorkerState


class CacheNews:
    """
    Args:
        cached: Hashes that the cache holds now.
    """

    def __init__(self, cached: Iterable[int] = ()) -> None:
        self._num_reports = 0
        self._added = dict.fromkeys(cached)  # dicts, so that the order is the same for the same run
        self._removed: dict[int, None] = {}

    def restart(self, cached: Iterable[int]) -> None:
        """The next report is number 1 again, and tells all."""
        self._num_reports = 0
        self._added = dict.fromkeys(cached)
        self._removed.clear()

    def note(self, added: Iterable[int], removed: Iterable[int]) -> None:
        """Changes of one step; a hash is in one of them at most. What came and went between two reports is not told."""
        for block_hash in removed:
            if block_hash in self._added:
                del self._added[block_hash]
            else:
                self._removed[block_hash] = None
        for block_hash in added:
            if block_hash in self._removed:
                del self._removed[block_hash]
            else:
                self._added[block_hash] = None

    def fill(self, state: WorkerState) -> None:
        """Puts into the next report what its reader has not been told."""
        self._num_reports += 1
        state.report_number = self._num_reports
        state.added_block_hashes.extend(self._added)
        state.removed_block_hashes.extend(self._removed)
        self._added.clear()
        self._removed.clear()
