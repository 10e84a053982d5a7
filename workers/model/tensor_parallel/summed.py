"""The modules of a share whose answer is a part of the model's: it is added up over the ranks.

Each holds a `Total`; what computes the part is left to the kernels, which may replace `inner` by a faster module.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.model.tensor_parallel.ranks import Total


class SummedLinear(nn.Module):
    """A linear layer of which each rank holds some of the inputs; a bias is one rank's alone."""

    def __init__(self, inner: Any, total: Total) -> None:
        super().__init__()
        self.inner = inner
        self.total = total

    @property
    def in_features(self) -> int:
        return int(self.inner.in_features)

    @property
    def out_features(self) -> int:
        return int(self.inner.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.total(self.inner(x))

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x."""
        y += self(x)


class SplitNorm(nn.Module):
    """An RMS norm over all heads, of which each rank has some: the sum of squares is all ranks'.

    Where a head is held by several ranks, `num_holders`, its squares count so many times. The name holds no "RMSNorm":
    the kernel for those sees one rank's part alone.
    """

    def __init__(self, norm: Any, width: int, num_holders: int, total: Total) -> None:
        """`width`: of the whole."""
        super().__init__()
        self.weight = norm.weight
        self.eps = float(norm.variance_epsilon)
        self.count = width * num_holders
        self.total = total

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        squares = self.total(wide.pow(2).sum(-1, keepdim=True))
        normed: Tensor = self.weight * (wide * torch.rsqrt(squares / self.count + self.eps))
        return normed.to(x.dtype)


class SplitGatedNorm(nn.Module):
    """An RMS norm over each group of Mamba-2's heads, after the gate; each rank has a part of one group.

    Every group has a column in what is added up, so that one message serves all of them.
    """

    def __init__(self, norm: Any, width: int, num_groups: int, group: int, total: Total) -> None:
        """`width`: of a whole group; `group`: which one this rank has a part of."""
        super().__init__()
        self.weight = norm.weight
        self.eps = float(norm.variance_epsilon)
        self.width, self.num_groups, self.group = width, num_groups, group
        self.total = total

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """[T, channels] of both."""
        wide = x.float() * F.silu(gate.float())
        squares = wide.new_zeros(wide.shape[0], self.num_groups)
        squares[:, self.group] = wide.pow(2).sum(-1)
        mean = self.total(squares)[:, self.group, None] / self.width
        normed: Tensor = self.weight * (wide * torch.rsqrt(mean + self.eps)).to(x.dtype)
        return normed


def plain_linear(module: Any) -> Any:
    """The linear layer itself, of one that is summed its part."""
    return module.inner if type(module) is SummedLinear else module


def like(original: Any, made: Any) -> Any:
    """`made` in place of the linear layer `original`: summed if that was."""
    return SummedLinear(made, original.total) if type(original) is SummedLinear else made
