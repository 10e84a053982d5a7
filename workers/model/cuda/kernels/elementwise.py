"""What lies between a layer's products, one pass over memory each: norms, rotation with the writing of KV, gates."""

import triton
import triton.language as tl


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
    keys,  # [num_slots, num_kv_heads, head_dim] out, where the tokens' slots are
    values,
    slots,  # [T] int64
    query_norm,  # [head_dim] float32; with norms alone
    key_norm,
    num_heads,
    num_kv_heads,
    eps,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,  # of HEAD_DIM up to a power of 2
    HEADS: tl.constexpr,  # of a program
    HAS_NORMS: tl.constexpr,
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
    _store(keys, to_key, turned, turned2, is_there & is_key[:, None], HEAD_DIM)
    to_value = to_key - num_kv_heads * HEAD_DIM
    _store(values, to_value, turned, turned2, is_there & is_value[:, None], HEAD_DIM)


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
