"""The gated delta rule of Qwen3-Next and Qwen3.5, and with a decay for each channel of Kimi-Linear."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.model.hybrid.mixer import LinearStep, Mixer, Recurrence, activation, conv_inputs, recurrent, spread, unit
from workers.model.state_shape import StateShape


class _GatedDelta(Mixer):
    """What Qwen3-Next and Qwen3.5 share: all but how the projections lie in their weights."""

    is_delta = True

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.k_heads, self.v_heads = module.num_k_heads, module.num_v_heads
        self.d_k, self.d_v = module.head_k_dim, module.head_v_dim
        self.sizes = [self.k_heads * self.d_k] * 2 + [self.v_heads * self.d_v]
        self.act = activation(module)
        self.shape = StateShape(
            (
                recurrent(self.v_heads, self.d_k, self.d_v),
                conv_inputs("q", module.conv1d, self.k_heads, self.d_k),
                conv_inputs("k", module.conv1d, self.k_heads, self.d_k),
                conv_inputs("v", module.conv1d, self.v_heads, self.d_v),
            )
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k and v before the convolution [T, channels], z [T, v_heads, d_v], b and a [T, v_heads]."""
        raise NotImplementedError

    def mix(self, x: Tensor, step: LinearStep) -> Tensor:
        module = self.module
        qkv, z, b, a = self.project(x)
        q, k, v = self.act(step.convolve(self.layer, qkv, module.conv1d)).split(self.sizes, dim=-1)
        q = spread(unit(q.unflatten(-1, (self.k_heads, self.d_k))) * self.d_k**-0.5, self.v_heads)
        k = spread(unit(k.unflatten(-1, (self.k_heads, self.d_k))), self.v_heads)
        log_decay = -module.A_log.float().exp() * F.softplus(a.float() + module.dt_bias)
        v = v.unflatten(-1, (self.v_heads, self.d_v))
        out = step.recur(self.layer, Recurrence(q, k, v, log_decay, b.sigmoid()))
        normed: Tensor = module.norm(out.reshape(-1, self.d_v), z.reshape(-1, self.d_v))
        mixed: Tensor = module.out_proj(normed.view(x.shape[0], -1))
        return mixed


class Qwen35Delta(_GatedDelta):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        module = self.module
        z = module.in_proj_z(x).unflatten(-1, (self.v_heads, self.d_v))
        return module.in_proj_qkv(x), z, module.in_proj_b(x), module.in_proj_a(x)


class Qwen3NextDelta(_GatedDelta):
    """Its projections lie key head by key head: q, k, the v and z of the value heads that share it."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        groups, per_group = self.k_heads, self.v_heads // self.k_heads
        wide = per_group * self.d_v
        by_group = self.module.in_proj_qkvz(x).unflatten(-1, (groups, -1))
        q, k, v, z = by_group.split([self.d_k, self.d_k, wide, wide], dim=-1)
        b, a = self.module.in_proj_ba(x).unflatten(-1, (groups, -1)).split(per_group, dim=-1)
        qkv = [part.flatten(1) for part in (q, k, v)]
        return torch.cat(qkv, dim=-1), z.reshape(-1, self.v_heads, self.d_v), b.flatten(1), a.flatten(1)


class KimiDelta(Mixer):
    is_delta = True

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.heads, self.dim = module.num_heads, module.head_dim
        self.act = activation(module)
        parts = (conv_inputs(name, module.conv1d, self.heads, self.dim) for name in ("q", "k", "v"))
        self.shape = StateShape((recurrent(self.heads, self.dim, self.dim), *parts))

    def mix(self, x: Tensor, step: LinearStep) -> Tensor:
        module, heads = self.module, (self.heads, self.dim)
        qkv = torch.cat([module.q_proj(x), module.k_proj(x), module.v_proj(x)], dim=-1)
        convolved = self.act(step.convolve(self.layer, qkv, module.conv1d))
        q, k, v = convolved.unflatten(-1, (3, *heads)).unbind(1)
        log_decay = module.forget_gate(x[None])[0]
        beta = module.b_proj(x).sigmoid()
        out = step.recur(self.layer, Recurrence(unit(q) * self.dim**-0.5, unit(k), v, log_decay, beta))
        gate = module.g_b_proj(module.g_a_proj(x)).unflatten(-1, heads)
        mixed: Tensor = module.o_proj(module.o_norm(out, gate).flatten(1))
        return mixed
