"""Sequence-parallel prefill of linear attention (LASP-2): each rank runs the recurrence over its piece of a prompt.

What a piece makes of the state before it is gathered once per layer, in float32, its size independent of the prompt's
length. While it travels, each rank does what does not depend on it. Then each folds what the ranks before it sent; and
all of it for the state after the prompt, which every rank knows without a further message.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.model.linear import Effect, fold, make_piece, no_effect, scan
from workers.parallel.gathering import SequenceRanks


@dataclass(frozen=True, slots=True)
class LastState:
    """The state after the prompt. It waits for the ranks after this one, which nothing else does: ask for it when all
    layers have run, or when `is_known`.
    """

    find: Callable[[], Tensor]
    is_known: Callable[[], bool] = lambda: True

    def __call__(self) -> Tensor:
        """[H, d_k, d_v], the same on every rank."""
        return self.find()


def linear_attention(
    ranks: SequenceRanks, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, LastState]:
    """This rank's outputs; takes what `workers.model.linear.scan` takes, of this rank's piece, which may be empty.

    Args:
        state: [H, d_k, d_v] float32, before the prompt, or before this chunk of it; the same on every rank.
    """
    if ranks.size == 1:
        out, after = scan(q, k, v, log_decay, beta, state)
        return out, LastState(lambda: after)
    piece = make_piece(q, k, v, log_decay, beta, state)
    knows = ranks.rank == 0
    effect = _known(state, piece.advance(state), log_decay, beta) if knows else piece.effect()
    gathering = ranks.gather(effect.packed(), ranks.states)
    piece.prepare()
    if not knows:
        piece.advance(fold(map(effect.unpacked, gathering.first(ranks.rank)), state))
    last = LastState(lambda: fold(map(effect.unpacked, gathering.wait()), state), gathering.is_whole)
    return piece.outputs(), last


def _known(before: Tensor, after: Tensor, log_decay: Tensor | None, beta: Tensor | None) -> Effect:
    """The first rank knows the state before its piece, and tells the state after, whatever was before: so it is spared
    the run that finds a piece's effect, which costs as much as the recurrence where there is a delta rule.
    """
    none = no_effect(log_decay, beta, before)
    if none.transition is None:
        return Effect(contribution=after - before, transition=None)
    return Effect(contribution=after, transition=torch.zeros_like(none.transition))
