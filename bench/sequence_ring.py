"""LASP-1, for comparison alone: each rank waits for the state of the one before it, and passes its own on."""

from typing import Any

import torch
from torch import Tensor

from workers.model.linear import make_piece
from workers.parallel.gathering import SequenceRanks
from workers.parallel.sequence import LastState


class Ring:
    """As `workers.parallel.sequence.linear_attention`, but the last state is this rank's own: only the last rank's is
    the prompt's.

    Args:
        group: The torch process group of the ranks.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def __call__(
        self,
        ranks: SequenceRanks,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        beta: Tensor | None,
        state: Tensor,
    ) -> tuple[Tensor, LastState]:
        piece = make_piece(q, k, v, log_decay, beta, state)
        if ranks.rank:
            piece.prepare()  # while the state is on its way
            state = torch.empty_like(state)
            self._group.recv([state], ranks.rank - 1, 0).wait()
        after = piece.advance(state)
        is_last = ranks.rank + 1 == ranks.size
        sent = None if is_last else self._group.send([after], ranks.rank + 1, 0)
        out = piece.outputs()

        def last() -> Tensor:
            if sent is not None:
                sent.wait()
            return after

        return out, LastState(last)
