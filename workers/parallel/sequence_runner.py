"""Torch's runner on each of the ranks that read prompts together (LASP-2, LASP-2H), with all blocks and states of the
part of the model that it holds.

Long prompt chunks are cut, a piece for each rank; shorter ones, and decodes, are computed by every rank alike, so that
all have their keys, values and states. Where ranks divide the model too, each piece has ranks of its own that add up;
all that is gathered here is between those that hold the same part.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from workers.model.contract import Chunk, Row
from workers.model.hybrid.mixer import LinearStep, mixers_of
from workers.model.layer_cache import WriteKV
from workers.model.prompt_rows import PromptRow
from workers.model.prompt_scores import KeptOutputs, num_pieces
from workers.model.runner import TorchRunner
from workers.model.tensor_parallel.ranks import Ranks
from workers.parallel.division import Division, divide
from workers.parallel.gathering import LEADER, SequenceRanks
from workers.parallel.later import Later
from workers.parallel.shared_keys import SharedKeys
from workers.parallel.shared_states import SharedStates
from workers.parallel.token_costs import token_costs
from workers.spec import WorkerSpec


class SequenceRunner(TorchRunner):
    """Implements `workers.model.contract.RankRunner`. Not thread-safe."""

    def __init__(self, spec: WorkerSpec, sequence: SequenceRanks, *, ranks: Ranks | None = None) -> None:
        super().__init__(spec, ranks=ranks)
        self.sequence = sequence
        self.runs_ahead = False  # pieces are cut, and what ranks tell each other is waited for
        self._over_tokens = spec.engine.sequence_parallel_over_tokens
        self._costs = token_costs(self.model.config, mixers_of(self.model), self.dtype)
        self._num_logits = -(-self.vocab_size // (ranks.size if ranks is not None else 1))  # of a token, on one rank

    def _computed(
        self,
        chunks: Sequence[Chunk],
        rows: Sequence[Row],
        on_layer: Callable[[int], None] | None,
        write_kv: WriteKV | None = None,
        states: LinearStep | None = None,
    ) -> Tensor | None:
        """Logits of `rows` on the ranks of the first piece, of their part of the model; nothing on the others."""
        ranks = self.sequence
        is_first = ranks.rank == LEADER
        division = self._divided(chunks, rows)
        if division is not None:
            found = self._of_pieces(division, rows, on_layer, write_kv or self._write_kv)
        else:
            found = super()._computed(chunks, rows if is_first else (), on_layer, write_kv, states)
        if is_first:
            return found
        if rows and self._ranks is not None:
            ranks.skip()  # the first piece's ranks put their parts of the logits together
        return None

    def _score(
        self, kept: KeptOutputs, chunks: Sequence[Chunk], rows: Sequence[Row], prompts: Sequence[PromptRow]
    ) -> None:
        """Chunks to be scored are not cut: every rank has computed all of them, and those of the first piece score."""
        if self.sequence.rank == LEADER:
            division = self._divided(chunks, rows)
            super()._score(kept, chunks if division is None else division.chunks_of(LEADER), rows, prompts)
        elif self._ranks is not None:
            for _ in range(num_pieces(chunks, self.vocab_size)):
                self.sequence.skip()

    def _divided(self, chunks: Sequence[Chunk], rows: Sequence[Row]) -> Division | None:
        return divide(chunks, rows, self.sequence.size, over_tokens=self._over_tokens, costs=self._costs)

    def _of_pieces(
        self, division: Division, rows: Sequence[Row], on_layer: Callable[[int], None] | None, write_kv: WriteKV
    ) -> Tensor | None:
        """As `_computed`, of a step in which chunks are cut."""
        ranks, later = self.sequence, Later()
        ranks.begin_step()
        mine = [row for row in rows if division.rank_of(row) == ranks.rank]
        write = SharedKeys(ranks, division, write_kv, self.store.block_size, self.device, later)
        states = SharedStates(ranks, division, self._states, self.device, later) if self._states else None
        told = None if on_layer is None else lambda layer: later.after(partial(on_layer, layer))
        found = super()._computed(division.chunks_of(ranks.rank), mine, told, write, states)
        later.finish()
        return self._collected(division, rows, found)

    def _collected(self, division: Division, rows: Sequence[Row], found: Tensor | None) -> Tensor | None:
        """Brings the logits of cut chunks' rows from the last piece's rank to the first's, in one message."""
        ranks, last = self.sequence, division.num_ranks - 1
        is_far = torch.tensor([division.rank_of(row) == last for row in rows for _ in range(1 + row.num_drafts)]).bool()
        num_far = int(is_far.sum())
        if num_far and ranks.rank != LEADER:
            ranks.to_leader(last, found.float() if found is not None and ranks.rank == last else None)
        if not num_far or ranks.rank != LEADER:
            return found
        far = torch.empty(num_far, self._num_logits, device=self.device)
        ranks.to_leader(last, far)
        logits = far.new_empty(len(is_far), self._num_logits)
        logits[is_far] = far
        if found is not None and num_far < len(is_far):
            logits[~is_far] = found.float()
        return logits
