"""The gated delta rule as training wants it: whole batches, no in-place writes that autograd would copy for.

Three times as fast, forward and backward, as transformers' own on a CPU core (windows of 256 tokens, 8 heads of 32).
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_5 import modeling_qwen3_5

CHUNK = 16  # tokens; small, since heads are


def use_in_transformers() -> None:
    """Qwen3.5-shaped models compute by `gated_delta_rule` from here on; denormal numbers, slow to multiply, are 0."""
    torch.set_flush_denormal(True)
    modeling_qwen3_5.torch_chunk_gated_delta_rule = gated_delta_rule


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **_: Any
) -> tuple[Tensor, Tensor]:
    """From a state of zeros; for the formulas see `workers.model.linear.chunks`.

    Args:
        query, key: [batch, tokens, key heads, d], tokens a multiple of CHUNK; made unit vectors here.
        value: [batch, tokens, heads, d_v].
        g: Log decays [batch, tokens, heads].
        beta: As g.
    Returns:
        [batch, tokens, heads, d_v], and the state after the last token [batch, heads, d, d_v].
    """
    heads, d = value.shape[2], query.shape[3]
    q, k = (modeling_qwen3_5.l2norm(x.float(), dim=-1, eps=1e-6) for x in (query, key))
    q, k = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (q * d**-0.5, k))
    q, k, v, g, beta = (_cut(x) for x in (q, k, value, g, beta))
    sums = g.cumsum(-1)
    decay = sums.exp()[..., None]
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    pairs = (sums[..., :, None] - sums[..., None, :]).masked_fill(later, -torch.inf).exp()
    system = (k * beta[..., None]) @ k.mT * pairs
    sides = torch.cat([v, k * decay], dim=-1) * beta[..., None]
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    chunks = zip(
        *(x.unbind(2) for x in solved.split([v.shape[-1], d], dim=-1)),
        (q * decay).unbind(2),
        (q @ k.mT * pairs).unbind(2),
        (k * (sums[..., -1:] - sums).exp()[..., None]).mT.unbind(2),
        sums[..., -1].exp()[..., None, None].unbind(2),
        strict=True,
    )
    state, outputs = v.new_zeros(*v.shape[:2], d, v.shape[-1]), []
    for u, w, from_start, attention, to_end, whole in chunks:
        added = u - w @ state
        outputs.append(from_start @ state + attention @ added)
        state = state * whole + to_end @ added
    return torch.stack(outputs, dim=2).flatten(2, 3).transpose(1, 2).to(query.dtype), state


def _cut(x: Tensor) -> Tensor:
    """[batch, tokens, heads, ...] -> [batch, heads, chunks, CHUNK, ...] float32."""
    return x.transpose(1, 2).float().unflatten(2, (-1, CHUNK))
