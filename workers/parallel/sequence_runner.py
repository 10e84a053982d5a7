"""Torch's runner on each of the ranks that read prompts together (LASP-2, LASP-2H): the whole model, blocks and states.

Long prompt chunks are cut, a piece for each rank; shorter ones, and decodes, are computed by every rank alike, so that
all have their keys, values and states.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from workers.model.contract import Chunk, Row
from workers.model.hybrid.mixer import LinearStep, mixers_of
from workers.model.runner import TorchRunner, WriteKV
from workers.parallel.division import Division, divide
from workers.parallel.gathering import LEADER, SequenceRanks
from workers.parallel.later import Later
from workers.parallel.shared_keys import SharedKeys
from workers.parallel.shared_states import SharedStates
from workers.parallel.token_costs import token_costs
from workers.spec import WorkerSpec


class SequenceRunner(TorchRunner):
    """Implements `workers.model.contract.RankRunner`. Not thread-safe."""

    def __init__(self, spec: WorkerSpec, sequence: SequenceRanks) -> None:
        super().__init__(spec)
        self.sequence = sequence
        self._over_tokens = spec.engine.sequence_parallel_over_tokens
        self._costs = token_costs(self.model.config, mixers_of(self.model), self.store.dtype)

    def _computed(
        self,
        chunks: Sequence[Chunk],
        rows: Sequence[Row],
        on_layer: Callable[[int], None] | None,
        write_kv: WriteKV | None = None,
        states: LinearStep | None = None,
    ) -> Tensor | None:
        """Logits of `rows` on the leader, nothing on the others."""
        ranks = self.sequence
        division = divide(chunks, rows, ranks.size, over_tokens=self._over_tokens, costs=self._costs)
        if division is None:
            found = super()._computed(chunks, rows if ranks.rank == LEADER else (), on_layer, write_kv, states)
            return found if ranks.rank == LEADER else None
        mine = [row for row in rows if division.rank_of(row) == ranks.rank]
        later = Later()
        write = SharedKeys(ranks, division, write_kv or self._write_kv, self.store.block_size, self.device, later)
        if self._states:
            states = SharedStates(ranks, division, self._states, self.device, later)
        told = None if on_layer is None else lambda layer: later.after(partial(on_layer, layer))
        found = super()._computed(division.chunks_of(ranks.rank), mine, told, write, states)
        later.finish()
        return self._collected(division, rows, found)

    def _collected(self, division: Division, rows: Sequence[Row], found: Tensor | None) -> Tensor | None:
        """Brings the logits of cut chunks' rows from the last rank to the leader, in one message."""
        ranks, last = self.sequence, division.num_ranks - 1
        is_far = torch.tensor([division.rank_of(row) == last for row in rows for _ in range(1 + row.num_drafts)]).bool()
        num_far = int(is_far.sum())
        if num_far and ranks.rank != LEADER:
            ranks.to_leader(last, found.float() if found is not None and ranks.rank == last else None)
        if not num_far or ranks.rank != LEADER:
            return found if ranks.rank == LEADER else None
        far = torch.empty(num_far, self.vocab_size, device=self.device)
        ranks.to_leader(last, far)
        logits = far.new_empty(len(is_far), self.vocab_size)
        logits[is_far] = far
        if found is not None and num_far < len(is_far):
            logits[~is_far] = found.float()
        return logits
