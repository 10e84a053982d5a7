"""Norms, rotation with the writing of KV, and gates, by Triton kernels of our own: one pass over memory each."""

from typing import NamedTuple

import torch
from torch import Tensor

from workers.model.cuda.launching import power_of_2
from workers.model.fp8 import KVScales

MAX_WIDTH = 1 << 15  # of a row that one program holds
HEADS = 8  # of a program


class HeadNorms(NamedTuple):
    """RMS norms of each query and key before they are turned, as Qwen3 has them."""

    query: Tensor  # [head_dim] float32
    key: Tensor
    eps: float


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight` is float32 and contiguous, of x's last dimension, at most `MAX_WIDTH`."""
    from workers.model.cuda.kernels import elementwise as kernels

    width = weight.shape[0]
    rows = x.reshape(-1, width)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = power_of_2(width)
    kernels.rms_norm[(len(rows),)](
        rows, weight, out, rows.stride(0), width, eps, BLOCK=block, num_warps=max(1, min(8, block // 512))
    )
    return out


def rotate_and_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_rows: Tensor,
    v_rows: Tensor,
    slots: Tensor,
    norms: HeadNorms | None = None,
    scales: KVScales | None = None,
) -> Tensor:
    """The turned queries; keys, turned, and values are written at `slots`.

    Args:
        qkv: [T, num_heads + 2 * num_kv_heads, head_dim], contiguous.
        cos, sin: [T, head_dim], contiguous.
        k_rows, v_rows: [num_slots, num_kv_heads, head_dim], contiguous; with `scales` bytes, of FP8 numbers.
        slots: [T] int64.
    Returns:
        [T, num_heads, head_dim].
    """
    from workers.model.cuda.kernels import elementwise as kernels

    tokens, num_all, head_dim = qkv.shape
    num_kv_heads = k_rows.shape[1]
    num_heads = num_all - 2 * num_kv_heads
    query = torch.empty(tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    kernels.rotate_and_write[(tokens, -(-num_all // HEADS))](
        qkv,
        cos,
        sin,
        query,
        k_rows,
        v_rows,
        slots,
        norms.query if norms else cos,
        norms.key if norms else cos,
        scales.inverses if scales else cos,
        num_heads,
        num_kv_heads,
        norms.eps if norms else 0.0,
        HEAD_DIM=head_dim,
        HALF=power_of_2(head_dim // 2),
        HEADS=HEADS,
        HAS_NORMS=norms is not None,
        HAS_SCALES=scales is not None,
        num_warps=4,
    )
    return query


def silu_mul(x: Tensor) -> Tensor:
    """[..., width] from [..., 2 * width], contiguous: the silu of the first half times the second."""
    from workers.model.cuda.kernels import elementwise as kernels

    width = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    block = min(1024, power_of_2(width))
    kernels.silu_mul[(out.numel() // width, -(-width // block))](x, out, width, BLOCK=block, num_warps=4)
    return out
