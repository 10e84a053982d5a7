"""What lies between a layer's products, one pass over memory each: norms, rotation with the writing of KV, gates."""

import triton
import triton.language as tl

LARGEST = tl.constexpr(448.0)  # of FP8 numbers, e4m3
LEAST_NORMAL = tl.constexpr(0.015625)  # 2 ** -6; below it they lie 2 ** -9 apart, as float32 numbers do from 2 ** 14 on
SHIFT = tl.constexpr(16384.0)


@triton.jit
def rms_norm(x, weight, out, x_stride, width, eps, BLOCK: tl.constexpr):
    """A row a program, in float32."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    is_there = at < width
    values = tl.load(x + row * x_stride + at, mask=is_there, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    scaled = values * factor * tl.load(weight + at, mask=is_there, other=0.0)
    tl.store(out + row * width + at, scaled.to(out.dtype.element_ty), mask=is_there)


@triton.jit
def rotate_and_write(
    qkv,  # [T, num_heads + 2 * num_kv_heads, head_dim], contiguous
    cos,  # [T, head_dim]
    sin,
    query,  # [T, num_heads, head_dim] out
    keys,  # [num_slots, num_kv_heads, head_dim] out, where the tokens' slots are; with scales bytes, of FP8 numbers
    values,
    slots,  # [T] int64
    query_norm,  # [head_dim] float32; with norms alone
    key_norm,
    inverses,  # [2 * num_kv_heads] float32: what keys, and then values, are multiplied by; with scales alone
    num_heads,
    num_kv_heads,
    eps,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,  # of HEAD_DIM up to a power of 2
    HEADS: tl.constexpr,  # of a program
    HAS_NORMS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
):
    """Some heads of one token: queries and keys are normed, where the model does that, and turned."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    at = tl.arange(0, HALF)
    num_all = num_heads + 2 * num_kv_heads
    is_there = (head < num_all)[:, None] & (at < HEAD_DIM // 2)[None, :]
    places = (token * num_all + head[:, None]) * HEAD_DIM + at[None, :]
    first = tl.load(qkv + places, mask=is_there, other=0.0).to(tl.float32)
    second = tl.load(qkv + places + HEAD_DIM // 2, mask=is_there, other=0.0).to(tl.float32)
    is_query = head < num_heads
    is_key = (head >= num_heads) & (head < num_heads + num_kv_heads)
    is_value = head >= num_heads + num_kv_heads
    if HAS_NORMS:
        mean = (tl.sum(first * first, 1) + tl.sum(second * second, 1)) / HEAD_DIM
        factor = tl.rsqrt(mean + eps)[:, None]
        is_in = (at < HEAD_DIM // 2)[None, :]
        both = is_query[:, None] & is_in, is_key[:, None] & is_in
        weight = tl.load(query_norm + at[None, :], mask=both[0], other=0.0)
        weight += tl.load(key_norm + at[None, :], mask=both[1], other=0.0)
        weight2 = tl.load(query_norm + HEAD_DIM // 2 + at[None, :], mask=both[0], other=0.0)
        weight2 += tl.load(key_norm + HEAD_DIM // 2 + at[None, :], mask=both[1], other=0.0)
        first = tl.where(is_value[:, None], first, first * factor * weight)
        second = tl.where(is_value[:, None], second, second * factor * weight2)
    angle = token * HEAD_DIM + at
    is_angle = at < HEAD_DIM // 2
    cos1 = tl.load(cos + angle, mask=is_angle, other=0.0).to(tl.float32)[None, :]
    sin1 = tl.load(sin + angle, mask=is_angle, other=0.0).to(tl.float32)[None, :]
    cos2 = tl.load(cos + angle + HEAD_DIM // 2, mask=is_angle, other=0.0).to(tl.float32)[None, :]
    sin2 = tl.load(sin + angle + HEAD_DIM // 2, mask=is_angle, other=0.0).to(tl.float32)[None, :]
    turned = tl.where(is_value[:, None], first, first * cos1 - second * sin1)
    turned2 = tl.where(is_value[:, None], second, second * cos2 + first * sin2)
    to_query = (token * num_heads + head[:, None]) * HEAD_DIM + at[None, :]
    _store(query, to_query, turned, turned2, is_there & is_query[:, None], HEAD_DIM)
    row = tl.load(slots + token) * num_kv_heads
    to_key = (row + head[:, None] - num_heads) * HEAD_DIM + at[None, :]
    to_value = to_key - num_kv_heads * HEAD_DIM
    if HAS_SCALES:
        inverse = tl.load(inverses + head - num_heads, mask=(head >= num_heads) & (head < num_all), other=0.0)
        kept, kept2 = _fp8(turned * inverse[:, None]), _fp8(turned2 * inverse[:, None])
    else:
        kept, kept2 = turned, turned2
    _store(keys, to_key, kept, kept2, is_there & is_key[:, None], HEAD_DIM)
    _store(values, to_value, kept, kept2, is_there & is_value[:, None], HEAD_DIM)


@triton.jit
def _fp8(x):
    """The bytes of the nearest FP8 numbers, of two as near the even one's; beyond the largest, the largest.

    Written out: Triton's interpreter has another rounding, by which numbers may be off by half.
    """
    bits = x.to(tl.int32, bitcast=True)
    size = tl.minimum(tl.abs(x), LARGEST)
    normal = size.to(tl.int32, bitcast=True)
    normal = ((normal + 0x7FFFF + ((normal >> 20) & 1)) >> 20) - (120 << 3)  # 3 bits of fraction; 7, not 127, is 2 ** 0
    small = (size + SHIFT).to(tl.int32, bitcast=True) & 0xFF
    return (((bits >> 24) & 0x80) | tl.where(size < LEAST_NORMAL, small, normal)).to(tl.uint8)


@triton.jit
def _store(target, places, first, second, is_there, HEAD_DIM: tl.constexpr):
    tl.store(target + places, first.to(target.dtype.element_ty), mask=is_there)
    tl.store(target + places + HEAD_DIM // 2, second.to(target.dtype.element_ty), mask=is_there)


@triton.jit
def silu_mul(x, out, width, BLOCK: tl.constexpr):
    """[rows, 2 * width], contiguous: the silu of the first half times the second."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there = at < width
    gate = tl.load(x + row * 2 * width + at, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + at, mask=is_there, other=0.0).to(tl.float32)
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + at, found.to(out.dtype.element_ty), mask=is_there)
