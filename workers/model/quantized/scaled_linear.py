"""A linear layer whose weight stays as its file has it; its product is with the dequantized weight, made each time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.model.quantized.scaled_weight import ScaledWeight


class ScaledLinear(nn.Module):
    """Where a processor has kernels for such weights, they put a faster one in its place."""

    def __init__(self, weight: ScaledWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias.detach() if bias is not None else None
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dequantized(self.dtype), self.bias)
