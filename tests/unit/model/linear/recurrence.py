"""The recurrences token by token, as they are defined, in float64; and inputs for them."""

import dataclasses

import torch
from torch import Tensor

KINDS = ("plain", "scalar", "vector", "delta", "delta-scalar", "delta-vector")
GATES = ("usual", "strong", "near 0", "near 1", "mixed")


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    state: Tensor

    def args(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
        return self.q, self.k, self.v, self.log_decay, self.beta, self.state

    def to(self, dtype: torch.dtype) -> "Inputs":
        """All but the state."""
        decay, beta = (None if x is None else x.to(dtype) for x in (self.log_decay, self.beta))
        q, k, v = (x.to(dtype) for x in (self.q, self.k, self.v))
        return Inputs(q, k, v, decay, beta, self.state)

    def on(self, device: str) -> "Inputs":
        decay, beta = (None if x is None else x.to(device) for x in (self.log_decay, self.beta))
        q, k, v = (x.to(device) for x in (self.q, self.k, self.v))
        return Inputs(q, k, v, decay, beta, self.state.to(device))


def inputs(
    kind: str, gates: str, num_tokens: int, *, heads: int = 2, d_k: int = 16, d_v: int = 24, seed: int = 0
) -> Inputs:
    """float32; keys of length 1 for the delta rule."""
    random = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(num_tokens, heads, d_k, generator=random) for _ in range(2))
    v = torch.randn(num_tokens, heads, d_v, generator=random)
    beta = None
    if kind.startswith("delta"):
        k = torch.nn.functional.normalize(k, dim=-1)
        beta = torch.rand(num_tokens, heads, generator=random)
    state = torch.randn(heads, d_k, d_v, generator=random)
    return Inputs(q / d_k**0.5, k, v, _log_decay(kind, gates, (num_tokens, heads, d_k), random), beta, state)


def _log_decay(kind: str, gates: str, shape: tuple[int, int, int], random: torch.Generator) -> Tensor | None:
    if kind in ("plain", "delta"):
        return None
    where = torch.rand(shape if kind.endswith("vector") else shape[:2], generator=random)
    usual, strong, closed, opened = -0.3 * where, -3 * where, -20 - 30 * where, -1e-6 * where
    if gates == "mixed":  # stretches of each, a gate of 0 here and there
        choice = torch.rand(where.shape, generator=random)
        mixed = torch.where(choice < 0.1, closed, torch.where(choice < 0.4, usual, opened))
        return mixed.masked_fill(choice < 0.02, -torch.inf)
    return {"usual": usual, "strong": strong, "near 0": closed, "near 1": opened}[gates]


def recurrence(given: Inputs) -> tuple[Tensor, Tensor]:
    """Outputs [T, H, d_v] and the last state, float64."""
    q, k, v, log_decay, beta, state = (None if x is None else x.double() for x in given.args())
    assert q is not None
    assert k is not None
    assert v is not None
    assert state is not None
    outputs = torch.empty_like(v)
    for t in range(len(q)):
        if log_decay is not None:
            kept = log_decay[t].exp()
            state = state * (kept[..., None] if kept.dim() == 2 else kept[..., None, None])
        added = v[t]
        if beta is not None:
            added = beta[t][:, None] * (added - torch.einsum("hk,hkv->hv", k[t], state))
        state = state + torch.einsum("hk,hv->hkv", k[t], added)
        outputs[t] = torch.einsum("hk,hkv->hv", q[t], state)
    return outputs, state


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, in the norm over all."""
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-30))
