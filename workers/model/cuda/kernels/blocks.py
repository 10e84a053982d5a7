"""Moves rows between blocks, which lie anywhere, and flat memory: many pieces of many tensors in one launch."""

import triton
import triton.language as tl

FIELDS = tl.constexpr(10)


@triton.jit(do_not_specialize_on_alignment=["table", "ids"])
def move(
    like,  # words of the size to copy by, of which nothing is read
    table,  # [pieces, FIELDS] int64, as `workers.model.cuda.blocks` lays them out
    ids,  # int64: the blocks of all pieces
    TO_BLOCKS: tl.constexpr,
    IS_WIDE: tl.constexpr,  # everything begins at multiples of 16 bytes, and a word has 8
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """A program copies ROWS rows of one piece, WORDS words of each."""
    table += tl.program_id(1).to(tl.int64) * FIELDS
    in_blocks, flat = tl.load(table).to(like.dtype), tl.load(table + 1).to(like.dtype)
    width, row_stride, plane_stride = tl.load(table + 2), tl.load(table + 3), tl.load(table + 4)
    num_units, num_rows = tl.load(table + 5).to(tl.int32), tl.load(table + 6).to(tl.int32)
    offset, block_units = tl.load(table + 7).to(tl.int32), tl.load(table + 8).to(tl.int32)
    first_id = tl.load(table + 9)
    if IS_WIDE:  # two words at once
        width, row_stride = tl.multiple_of(width, 2), tl.multiple_of(row_stride, 2)
        plane_stride = tl.multiple_of(plane_stride, 2)
        in_blocks, flat = tl.multiple_of(in_blocks, 16), tl.multiple_of(flat, 16)
    across = tl.cdiv(width.to(tl.int32), WORDS)
    rows = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
    columns = (tl.program_id(0) % across) * WORDS + tl.arange(0, WORDS)
    is_there = rows < num_rows
    units = rows % num_units + offset
    blocks = tl.load(ids + first_id + units // block_units, mask=is_there, other=0)
    there = (rows // num_units).to(tl.int64) * plane_stride + (blocks * block_units + units % block_units) * row_stride
    is_there = is_there[:, None] & (columns < width)[None, :]
    in_blocks += there[:, None] + columns[None, :]
    flat += rows.to(tl.int64)[:, None] * width + columns[None, :]
    if TO_BLOCKS:
        tl.store(in_blocks, tl.load(flat, mask=is_there), mask=is_there)
    else:
        tl.store(flat, tl.load(in_blocks, mask=is_there), mask=is_there)
