"""A linear layer that adds B A x to the rows of a step whose adapter has something for it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workers.model.lora.mix import Mix


class Factors(NamedTuple):
    """Of one adapter, scaled. Where a layer is several of the model's in one, so are these."""

    down: Tensor  # [inputs, ranks]: A, transposed
    up: Tensor  # [ranks, outputs]: B, transposed

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes


class AdaptedLinear(nn.Module):
    """Around whatever computes the layer: torch's own, packed, or a rank's part of one.

    Without an adapter in the step it costs one look at a list.
    """

    def __init__(self, inner: Any, mix: Mix) -> None:
        super().__init__()
        self.inner = inner
        self.in_features, self.out_features = int(inner.in_features), int(inner.out_features)
        self.factors: dict[int, Factors] = {}  # by adapter
        self._mix = mix

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if self._mix.parts:
            self._add(y, x)
        return y

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x."""
        self.inner.add_to(y, x)
        if self._mix.parts:
            self._add(y, x)

    def _add(self, y: Tensor, x: Tensor) -> None:
        flat_x, flat_y = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
        for adapter_id, rows in self._mix.parts:
            factors = self.factors.get(adapter_id)
            if factors is None:
                continue
            if isinstance(rows, Tensor):
                flat_y.index_add_(0, rows, (flat_x[rows] @ factors.down) @ factors.up)
            elif rows is None:
                flat_y.addmm_(flat_x @ factors.down, factors.up)
            else:
                flat_y[rows].addmm_(flat_x[rows] @ factors.down, factors.up)


class Part(NamedTuple):
    """What an adapter has for one of the model's layers: A [rank, inputs], B [outputs, rank], and its scale."""

    down: Tensor
    up: Tensor
    scale: float
    first_output: int  # of the layer that it is computed in


def joined(parts: list[Part], num_outputs: int, dtype: torch.dtype, device: torch.device) -> Factors:
    """The factors of a layer of `num_outputs` that computes all of `parts` from one input."""
    down = torch.cat([part.down for part in parts]).to(device=device, dtype=dtype)
    up = torch.zeros(down.shape[0], num_outputs, dtype=dtype, device=device)
    at = 0
    for part in parts:
        rank, last = part.down.shape[0], part.first_output + part.up.shape[0]
        up[at : at + rank, part.first_output : last] = (part.up.float() * part.scale).t().to(device=device, dtype=dtype)
        at += rank
    return Factors(down.t().contiguous(), up)
