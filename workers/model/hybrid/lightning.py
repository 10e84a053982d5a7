"""The lightning attention of MiniMax: a fixed decay for each head, no convolution."""

from typing import Any

import torch
from torch import Tensor

from workers.model.hybrid.mixer import LinearStep, Mixer, Recurrence, recurrent
from workers.model.state_shape import StateShape


class MiniMaxLightning(Mixer):
    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.heads, self.dim = module.num_attention_heads, module.head_dim
        self.shape = StateShape((recurrent(self.heads, self.dim, self.dim),))

    def __call__(self, hidden_states: Tensor, *_: Any, step: LinearStep, **__: Any) -> tuple[Tensor, None]:
        return super().__call__(hidden_states, step=step), None

    def mix(self, x: Tensor, step: LinearStep) -> Tensor:
        module = self.module
        q, k, v = module.act_fn(module.qkv_proj(x)).unflatten(-1, (self.heads, 3 * self.dim)).split(self.dim, dim=-1)
        log_decay = -module.slope_rate.float().view(1, -1).expand(x.shape[0], -1)
        out = step.recur(self.layer, Recurrence(q, k, v, log_decay, None))
        mixed: Tensor = module.out_proj(torch.sigmoid(module.output_gate(x)) * module.norm(out.flatten(1)))
        return mixed
