"""Changes logits as requests ask: a program for each row that asks, which touches the tokens concerned alone.

Steps of a row wait for each other. In each a token comes once, or is given the same value each time it comes.
"""

import triton
import triton.language as tl

FIELDS = tl.constexpr(14)


@triton.jit(
    do_not_specialize=["row_stride", "out_stride", "vocab_size"],
    do_not_specialize_on_alignment=["logits", "out", "ints", "floats", "pending"],
)
def adjust(
    logits,  # [rows, vocab_size] float32
    out,  # the same, a copy of it: changed
    ints,  # int32, as `workers.model.cuda.penalties` lays it out: FIELDS for each row that asks, then lists
    floats,  # the same memory, of which some is float32
    pending,  # [samples of the last step] int64
    row_stride,
    out_stride,
    vocab_size,
    HAS_PENDING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    told = tl.program_id(0) * FIELDS
    row = tl.load(ints + told).to(tl.int64)
    logits += row * row_stride
    out += row * out_stride
    repetition, first_value = tl.load(floats + told + 10), tl.load(floats + told + 11)
    lanes = tl.arange(0, BLOCK)
    last = -1
    if HAS_PENDING:
        follows = tl.load(ints + told + 9)
        if follows >= 0:
            last = tl.load(pending + follows).to(tl.int32)

    begin, count = tl.load(ints + told + 1), tl.load(ints + told + 2)
    for step in range(0, count, BLOCK):
        is_there = step + lanes < count
        tokens = tl.load(ints + begin + step + lanes, mask=is_there, other=vocab_size)
        is_there = tokens < vocab_size
        old = tl.load(logits + tokens, mask=is_there, other=0.0)
        tl.store(out + tokens, _repeated(old, repetition), mask=is_there)
    if last >= 0:
        tl.store(out + last, _repeated(tl.load(logits + last), repetition))
    tl.debug_barrier()

    begin, count, apart = tl.load(ints + told + 3), tl.load(ints + told + 4), tl.load(ints + told + 12)
    for step in range(0, count, BLOCK):
        is_there = step + lanes < count
        at = begin + step + lanes
        tokens = tl.load(ints + at, mask=is_there, other=vocab_size)
        biased = tl.load(floats + at + apart, mask=is_there, other=0.0)
        is_seen = tl.load(ints + at + 2 * apart, mask=is_there, other=0) != 0
        is_there = tokens < vocab_size
        biased += tl.load(logits + tokens, mask=is_there, other=0.0)
        biased = tl.where(is_seen | (tokens == last), _repeated(biased, repetition), biased)
        tl.store(out + tokens, biased, mask=is_there)
    tl.debug_barrier()

    begin, count, apart = tl.load(ints + told + 5), tl.load(ints + told + 6), tl.load(ints + told + 13)
    num_found = 0
    for step in range(0, count, BLOCK):
        is_there = step + lanes < count
        at = begin + step + lanes
        tokens = tl.load(ints + at, mask=is_there, other=vocab_size)
        value = tl.load(floats + at + apart, mask=is_there, other=0.0)
        value_of_more = tl.load(floats + at + 2 * apart, mask=is_there, other=0.0)
        is_there = tokens < vocab_size
        is_last = is_there & (tokens == last)
        num_found += tl.sum(is_last.to(tl.int32), 0)
        old = tl.load(out + tokens, mask=is_there, other=0.0)
        tl.store(out + tokens, old + tl.where(is_last, value_of_more, value), mask=is_there)
    if (last >= 0) & (num_found == 0):
        tl.store(out + last, tl.load(out + last) + first_value)
    tl.debug_barrier()

    begin, count = tl.load(ints + told + 7), tl.load(ints + told + 8)
    for step in range(0, count, BLOCK):
        is_there = step + lanes < count
        tokens = tl.load(ints + begin + step + lanes, mask=is_there, other=vocab_size)
        tl.store(out + tokens, float("-inf"), mask=tokens < vocab_size)


@triton.jit
def _repeated(old, repetition):
    """With the rounding of torch's division."""
    return tl.where(old > 0, tl.div_rn(old, repetition + tl.zeros_like(old)), old * repetition)
