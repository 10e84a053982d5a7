"""A recurrence over a prompt's tokens, or over a chunk of a prompt."""

import torch
from torch import Tensor

from workers.model.linear.chunks import CHUNK, cut, join
from workers.model.linear.kernels import kernel_for

# Tokens x heads that are worked on together: what they need stays in a core's cache (2 MB on a Xeon of 2023).
SEGMENT = 1024


def scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs of T tokens that continue from a state; see `workers.model.linear` for the formulas.

    Args:
        q, k: [T, H, d_k], T >= 0, any floating dtype; computed in float32.
        v: [T, H, d_v].
        log_decay: [T, H] or [T, H, d_k], <= 0, down to -inf; None: no decay.
        beta: [T, H]; None: no delta rule. With it, keys are expected to have length 1.
        state: [H, d_k, d_v] float32; left as it is.
    Returns:
        Outputs [T, H, d_v] in v's dtype, and the state after the last token, a new tensor.
    """
    if kernel := kernel_for(q, log_decay, beta):
        return kernel(q, k, v, log_decay, beta, state)
    out = empty_outputs(v)
    state = state.clone()
    for part in segments_of(len(q), q.shape[1]):
        decays, betas = (None if x is None else x[part] for x in (log_decay, beta))
        chunks = cut(q[part], k[part], v[part], decays, betas)
        state = chunks.advance(state)
        join(chunks.outputs(), out[part])
    return out, state


def segments_of(num_tokens: int, num_heads: int) -> list[slice]:
    """Of whole chunks, but for the last."""
    size = max(SEGMENT // (num_heads * CHUNK), 1) * CHUNK
    return [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]


def empty_outputs(v: Tensor) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)
