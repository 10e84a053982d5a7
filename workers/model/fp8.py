"""Keys and values in FP8: e4m3 without infinities, with a factor for each KV head.

A value is kept as value / factor, rounded to the nearest even; what is beyond the largest number becomes the largest.
Blocks hold bytes (uint8), which is what moves; only who computes with them looks at them as `DTYPE`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DTYPE = torch.float8_e4m3fn
LARGEST = 448.0
FILLED_AT_ONCE = 1 << 24  # values: so much more memory than the blocks have is taken


class KVScales(NamedTuple):
    """Of one layer's KV heads, keys' first and then values'.

    Attributes:
        factors: [2, num_kv_heads] float32: what is kept is to be multiplied by.
        inverses: The same of their reciprocals.
    """

    factors: Tensor
    inverses: Tensor

    @classmethod
    def of(cls, factors: Tensor) -> "KVScales":
        return cls(factors, factors.reciprocal())

    @property
    def key(self) -> Tensor:
        return self.factors[0]

    @property
    def value(self) -> Tensor:
        return self.factors[1]


def to_bytes(x: Tensor, inverse: Tensor) -> Tensor:
    """x: [..., num_kv_heads, T, head_dim], of which the answer has the shape; `inverse`: [num_kv_heads]."""
    scaled = (x.float() * inverse[:, None, None]).clamp(-LARGEST, LARGEST)
    return scaled.to(DTYPE).view(torch.uint8)


def read(kept: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """kept: [..., num_kv_heads, head_dim] of `DTYPE`; `factor`: [num_kv_heads]."""
    return (kept.float() * factor[:, None]).to(dtype)


def fill_normal(cache: Tensor, factor: Tensor | None = None) -> None:
    """With random numbers, normal ones once they are read.

    Args:
        cache: [num_blocks, block_size, num_kv_heads, head_dim] of any type; bytes are taken for `DTYPE`.
    """
    if cache.dtype not in (DTYPE, torch.uint8):
        cache.normal_()
        return
    kept = cache.view(torch.uint8)
    ones = torch.ones(cache.shape[-2], device=cache.device)
    inverse = ones if factor is None else factor.reciprocal()
    num_blocks = max(1, FILLED_AT_ONCE // kept[0].numel())
    for first in range(0, len(kept), num_blocks):
        part = kept[first : first + num_blocks]
        heads = torch.randn(part.shape, device=cache.device).transpose(-3, -2)  # [..., num_kv_heads, block_size, dim]
        part.copy_(to_bytes(heads, inverse).transpose(-3, -2))
