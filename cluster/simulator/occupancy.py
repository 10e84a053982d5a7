"""How long a simulated worker has computed, and how many of its blocks were in use."""

from cluster.simulator.spans import Spans
from workers.engine.block_manager import BlockManager


class Occupancy:
    """Args:
    num_stages: Steps that overlap in a pipeline count for their share each.
    spans: Where to note each step, if anywhere.
    """

    def __init__(self, *, worker_id: str, blocks: BlockManager, num_stages: int, spans: Spans | None) -> None:
        self.busy_s = 0.0
        self.peak_blocks = 0
        self._worker_id = worker_id
        self._blocks = blocks
        self._num_stages = num_stages
        self._spans = spans

    def add_steps(self, kind: str, start_s: float, end_s: float, num_sequences: int) -> None:
        """One step, or several in a row, of so many sequences."""
        self.busy_s += (end_s - start_s) / self._num_stages
        if self._spans is not None:
            self._spans.worker(self._worker_id, kind, start_s, end_s, num_sequences)

    def look_at_blocks(self) -> None:
        num_used = self._blocks.num_referenced_blocks + self._blocks.num_quarantined_blocks
        self.peak_blocks = max(self.peak_blocks, num_used)
