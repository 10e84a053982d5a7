"""The state space of Mamba-2 in Bamba and Granite's hybrids: in linear attention's words C is the query, B the key."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from workers.model.hybrid.mixer import LinearStep, Mixer, Recurrence, conv_inputs, recurrent, spread
from workers.model.state_shape import StateShape


class Mamba2(Mixer):
    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.heads, self.dim = module.num_heads, module.head_dim
        self.groups, self.d_state = module.n_groups, module.ssm_state_size
        self.sizes = [self.heads * self.dim] + [self.groups * self.d_state] * 2
        self.shape = StateShape(
            (
                recurrent(self.heads, self.d_state, self.dim),
                conv_inputs("x", module.conv1d, self.heads, self.dim),
                conv_inputs("B", module.conv1d, self.groups, self.d_state),
                conv_inputs("C", module.conv1d, self.groups, self.d_state),
            )
        )

    def mix(self, x: Tensor, step: LinearStep) -> Tensor:
        module = self.module
        gate, xbc, dt = module.in_proj(x).split([self.sizes[0], sum(self.sizes), self.heads], dim=-1)
        values, b, c = module.act(step.convolve(self.layer, xbc, module.conv1d)).split(self.sizes, dim=-1)
        values = values.unflatten(-1, (self.heads, self.dim)).float()
        k, q = (spread(part.unflatten(-1, (self.groups, -1)), self.heads) for part in (b, c))
        dt = F.softplus(dt + module.dt_bias.to(dt.dtype)).clamp(*module.time_step_limit).float()  # [T, heads]
        log_decay = -module.A_log.float().exp() * dt
        out = step.recur(self.layer, Recurrence(q, k, values * dt[..., None], log_decay, None))
        out = out + values * module.D[:, None]
        normed: Tensor = module.norm(out.flatten(1), gate)
        mixed: Tensor = module.out_proj(normed.to(x.dtype))
        return mixed
