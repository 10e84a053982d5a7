"""Draws tokens from logits without sorting the vocabulary: a program for each row.

What is kept is found as a threshold. With y = (largest logit - logit) / temperature >= 0, whose bits as an int32 are in
its order, the least y that keeps enough tokens (top_k), or enough of their weight (top_p), is found digit by digit from
the top, 4 bits at a time; before that, only the tokens that may matter are written together, a few hundred as a rule.
"""

import triton
import triton.language as tl

DIGIT = tl.constexpr(16)
NONE = tl.constexpr(float("-inf"))
FAR = tl.constexpr(float("inf"))
# Of y: the tokens within one of these are looked at alone, if all that can be kept are among them.
NEAR = tl.constexpr(8.0)
MIDDLE = tl.constexpr(16.0)


@triton.jit(do_not_specialize_on_alignment=["numbers", "keys"])
def choose(
    logits,  # [rows, vocab_size] float32
    numbers,  # [rows, 3] float32: temperature, top_p, log of min_p
    keys,  # [rows, 3] int32: top_k, low and high bits of the key of the noise
    token_ids,  # [rows] int64 out
    near_y,  # [rows, vocab_size] float32, written
    near_ids,  # [rows, vocab_size] int32, written
    row_stride,
    vocab_size,
    BLOCK: tl.constexpr,
    NARROW: tl.constexpr,  # of what is compared with all digits at once
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    near_y += row * vocab_size
    near_ids += row * vocab_size
    temperature, top_p = tl.load(numbers + row * 3), tl.load(numbers + row * 3 + 1)
    furthest = -tl.load(numbers + row * 3 + 2)
    top_k, low, high = tl.load(keys + row * 3), tl.load(keys + row * 3 + 1), tl.load(keys + row * 3 + 2)
    lanes = tl.arange(0, BLOCK)

    best = NONE
    best_id = 0
    for begin in range(0, vocab_size, BLOCK):
        at = begin + lanes
        x = tl.load(logits + at, mask=at < vocab_size, other=NONE)
        here = tl.max(x, 0)
        first = tl.min(tl.where(x == here, at, vocab_size), 0)
        best_id = tl.where(here > best, first, best_id)
        best = tl.maximum(best, here)

    if temperature > 0:
        has_k = (top_k > 0) & (top_k < vocab_size)
        has_p = top_p < 1.0
        if has_k | has_p | (furthest < FAR):
            best_id = _truncated(
                logits, near_y, near_ids, vocab_size, best, temperature, top_k, has_k, top_p, has_p, furthest,
                low, high, BLOCK, NARROW,
            )  # fmt: skip
        else:
            top = NONE
            for begin in range(0, vocab_size, BLOCK):
                at = begin + lanes
                x = tl.load(logits + at, mask=at < vocab_size, other=NONE)
                scores = (x - best) / temperature + _gumbel(at, low, high)
                here = tl.max(scores, 0)
                first = tl.min(tl.where(scores == here, at, vocab_size), 0)
                best_id = tl.where(here > top, first, best_id)
                top = tl.maximum(top, here)
    tl.store(token_ids + row, best_id.to(tl.int64))


@triton.jit
def _truncated(
    logits, near_y, near_ids, vocab_size, best, temperature, top_k, has_k, top_p, has_p, furthest, low, high,
    BLOCK: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    lanes = tl.arange(0, BLOCK)
    total, near, middle = 0.0, 0.0, 0.0
    num_near, num_middle = 0, 0
    for begin in range(0, vocab_size, BLOCK):
        at = begin + lanes
        y = (best - tl.load(logits + at, mask=at < vocab_size, other=NONE)) / temperature
        weights = tl.exp(-y)
        total += tl.sum(weights, 0)
        near += tl.sum(tl.where(y <= NEAR, weights, 0.0), 0)
        middle += tl.sum(tl.where(y <= MIDDLE, weights, 0.0), 0)
        num_near += tl.sum((y <= NEAR).to(tl.int32), 0)
        num_middle += tl.sum((y <= MIDDLE).to(tl.int32), 0)
    # All that top_k keeps must be within reach; without it, all that top_p keeps; furthest keeps a known range.
    is_near = tl.where(has_k, num_near >= top_k, tl.where(has_p, near >= total * top_p, furthest <= NEAR))
    is_middle = tl.where(has_k, num_middle >= top_k, tl.where(has_p, middle >= total * top_p, furthest <= MIDDLE))
    reach = tl.where(is_near, NEAR, tl.where(is_middle, MIDDLE, 3.4e38))

    count = 0
    for begin in range(0, vocab_size, BLOCK):
        at = begin + lanes
        y = (best - tl.load(logits + at, mask=at < vocab_size, other=NONE)) / temperature
        is_kept = y <= reach
        places = count + tl.cumsum(is_kept.to(tl.int32), 0) - 1
        tl.store(near_y + places, y, mask=is_kept)
        tl.store(near_ids + places, at, mask=is_kept)
        count += tl.sum(is_kept.to(tl.int32), 0)
    tl.debug_barrier()

    bound = 0x7FFFFFFF
    if has_k:
        bound = _least(near_y, count, bound, top_k.to(tl.float32), False, NARROW)
    if has_p:
        kept = 0.0
        if has_k:
            for begin in range(0, count, BLOCK):
                at = begin + lanes
                y = tl.load(near_y + at, mask=at < count, other=FAR)
                kept += tl.sum(tl.where(y.to(tl.int32, bitcast=True) <= bound, tl.exp(-y), 0.0), 0)
        else:
            kept = total
        bound = _least(near_y, count, bound, kept * top_p, True, NARROW)

    found = 0
    top = NONE
    for begin in range(0, count, BLOCK):
        at = begin + lanes
        is_there = at < count
        y = tl.load(near_y + at, mask=is_there, other=FAR)
        ids = tl.load(near_ids + at, mask=is_there, other=0)
        is_kept = is_there & (y.to(tl.int32, bitcast=True) <= bound) & (y <= furthest)
        scores = tl.where(is_kept, _gumbel(ids, low, high) - y, NONE)
        here = tl.max(scores, 0)
        first = tl.min(tl.where(scores == here, ids, vocab_size), 0)
        found = tl.where(here > top, first, found)
        top = tl.maximum(top, here)
    return found


@triton.jit
def _least(near_y, count, bound, target, BY_WEIGHT: tl.constexpr, NARROW: tl.constexpr):
    """The least b for which as many y, or as much of their weight, as `target` have bits of at most b; all: `bound`."""
    lanes = tl.arange(0, NARROW)
    digits = tl.arange(0, DIGIT)
    prefix = 0
    for step in range(8):
        shift = 28 - 4 * step
        sums = tl.zeros((DIGIT, NARROW), tl.float32)
        for begin in range(0, count, NARROW):
            at = begin + lanes
            y = tl.load(near_y + at, mask=at < count, other=FAR)
            bits = y.to(tl.int32, bitcast=True)
            is_counted = (at < count) & (bits <= bound)
            weights = tl.where(is_counted, tl.exp(-y) if BY_WEIGHT else 1.0, 0.0)
            digit = (bits - prefix) >> shift
            sums += tl.where(digit[None, :] <= digits[:, None], weights[None, :], 0.0)
        have = tl.sum(sums, 1)
        digit = tl.minimum(tl.sum((have < target).to(tl.int32), 0), tl.where(step == 0, 7, DIGIT - 1))
        prefix += digit << shift
    return tl.minimum(prefix, bound)


@triton.jit
def _gumbel(ids, low, high):
    """As `workers.model.sampler._gumbel`."""
    bits = ids.to(tl.uint32) * 0x9E3779B1
    bits = bits ^ low.to(tl.uint32, bitcast=True)
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits += high.to(tl.uint32, bitcast=True)
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    bits = bits ^ (bits >> 16)
    uniform = ((bits & 0x7FFFFFFF).to(tl.float32) + 0.5) * 4.656612873077393e-10
    uniform = tl.minimum(uniform, 0.99999994)
    # log1p by W. Kahan: exact to the last bits where uniform is small, which is where the winners are.
    rest = 1.0 - uniform
    exponential = tl.where(rest == 1.0, uniform, -tl.log(rest) * (uniform / (1.0 - rest)))
    return -tl.log(exponential)
