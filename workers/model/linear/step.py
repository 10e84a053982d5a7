"""A recurrence's next token, for many sequences at once: decode."""

import torch
from torch import Tensor


def step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each of B sequences; see `workers.model.linear` for the formulas.

    Args:
        q, k: [B, H, d_k], any floating dtype; computed in float32.
        v: [B, H, d_v].
        log_decay: [B, H] or [B, H, d_k], <= 0, down to -inf; None: no decay.
        beta: [B, H]; None: no delta rule.
        state: [B, H, d_k, d_v] float32; left as it is.
    Returns:
        Outputs [B, H, d_v] in v's dtype, and the states after the token, a new tensor.
    """
    keys, added = k.float(), v.float()
    state = state.clone() if log_decay is None else state * _kept(log_decay)
    if beta is not None:
        added = (added - torch.matmul(keys[..., None, :], state)[..., 0, :]) * beta.float()[..., None]
    state.addcmul_(keys[..., None], added[..., None, :])
    return torch.matmul(q.float()[..., None, :], state)[..., 0, :].to(v.dtype), state


def _kept(log_decay: Tensor) -> Tensor:
    """[B, H, d_k or 1, 1]"""
    kept = log_decay.float().exp()[..., None]
    return kept if log_decay.dim() == 3 else kept[..., None]
