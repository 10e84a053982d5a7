"""A few tokens of each of many sequences, of which it is known only afterwards how many count: drafts.

States are read and left as they are. Of each token is kept its key, its decay, and what it adds to the state for that
key (the delta rule's correction, which depends on the tokens before, is in it). So the state after any number of the
tokens is one product away, and costs what one token's state does, whatever that number is.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from workers.model.linear.decay import LEAST_LOG_DECAY, chunk_decay, factors
from workers.model.linear.effect import Effect


class Trial:
    """C tokens of each of B sequences; see `workers.model.linear` for the formulas.

    Args:
        q, k: [B, C, H, d_k], any floating dtype; computed in float32. Where decays are one per key dimension, C is a
            power of 2.
        v: [B, C, H, d_v].
        log_decay: [B, C, H] or [B, C, H, d_k], <= 0, down to -inf; None: no decay.
        beta: [B, C, H]; None: no delta rule.
        state: [B, H, d_k, d_v] float32, before the first token; left as it is.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
    ) -> None:
        queries, self.keys, values = (x.transpose(1, 2).float() for x in (q, k, v))  # [B, H, C, d]
        self.log_decay = None if log_decay is None else log_decay.transpose(1, 2).float()
        decay = chunk_decay(self.log_decay)
        self.added = values  # [B, H, C, d_v]: for each key
        if beta is not None:
            betas = beta.transpose(1, 2).float()[..., None]
            lower = decay.pairs(self.keys, self.keys).mul_(betas)
            wanted = (values - torch.matmul(decay.from_start(self.keys), state)).mul_(betas)
            self.added = torch.linalg.solve_triangular(lower, wanted, upper=False, unitriangular=True)
        out = torch.matmul(decay.pairs(queries, self.keys), self.added)
        out += torch.matmul(decay.from_start(queries), state)
        self.outputs = out.transpose(1, 2).to(v.dtype)  # [B, C, H, d_v]


def effects(trials: Sequence[Trial], counts: Tensor) -> Iterator[Effect]:
    """Of each of `trials`, alike in their shapes (those of a model's layers): what its first tokens do to the states
    before them, `counts` [B] of each sequence, one or more. [B, H, ...] where `Effect` has [H, ...].
    """
    keys = torch.stack([trial.keys for trial in trials])  # [trials, B, H, C, d_k]
    keys = keys * (torch.arange(keys.shape[3], device=keys.device) < counts[:, None])[:, None, :, None]
    decays = [trial.log_decay for trial in trials if trial.log_decay is not None]
    whole = _decay_to_end_(keys, torch.stack(decays), counts) if decays else None
    for number, trial in enumerate(trials):
        contribution = torch.matmul(keys[number].mT, trial.added)
        yield Effect(contribution=contribution, transition=whole[number] if whole is not None else None)


def _decay_to_end_(keys: Tensor, log_decay: Tensor, counts: Tensor) -> Tensor:
    """`keys` become what is left of them after the last token that counts; returned is what is left of a state before
    the first: [..., d_k or 1, 1].
    """
    if log_decay.dim() < keys.dim():
        log_decay = log_decay[..., None]
    # Sums in float64: what two of them differ by is exact to float32 however large they are.
    sums = log_decay.clamp(min=LEAST_LOG_DECAY).double().cumsum(-2)  # [trials, B, H, C, d_k or 1]
    last = (counts - 1).view(-1, 1, 1, 1).expand(*sums.shape[:3], 1, sums.shape[4])
    whole = sums.gather(-2, last)
    keys *= factors((whole - sums).float().clamp_(max=0))
    return factors(whole.float()).mT
