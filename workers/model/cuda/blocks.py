"""Gathers what lies in blocks into flat memory, and scatters it, by a Triton kernel of our own: any number of pieces in
one launch, whatever their types, after one small copy that says where they are."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workers.model.cuda.launching import has_triton, passes, to_device

TILE = 1024  # words of a program
WIDTHS = (16, 64, 256)  # words of a row at once: few, since each is compiled by itself
WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


class Piece(NamedTuple):
    """Units [start, end) of the blocks `block_ids`, in order, beside the flat memory that they are copied from or to.

    Attributes:
        rows: [planes, blocks * block_units, width]; the last dimension is contiguous.
        flat: uint8, contiguous, planes * (end - start) rows one after the other; on the rows' device.
    """

    rows: Tensor
    block_units: int
    block_ids: Sequence[int]
    start: int
    end: int
    flat: Tensor


class _Held(NamedTuple):
    """Where among the ids that are told some blocks are, and between which numbers they lie."""

    first: int
    least: int
    most: int


def gather(pieces: Sequence[Piece]) -> None:
    """From blocks. Nothing waits: it is done when the caller's stream gets there."""
    _move(pieces, to_blocks=False)


def scatter(pieces: Sequence[Piece]) -> None:
    """To blocks. No unit may be in two pieces."""
    _move(pieces, to_blocks=True)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether the kernel can be used there; compiles it on the first call, for a second: before anybody waits."""
    return device.type == "cuda" and has_triton() and copies_right(device)


def copies_right(device: torch.device) -> bool:
    """There and back, by every size of a word."""

    def trial() -> str:
        for width, start in ((4096, 0), (512, 2), (128, 1), (24, 3), (20, 1), (6, 2), (3, 1)):
            rows = torch.arange(2 * 12 * width, device=device).to(torch.uint8).view(2, 12, width)
            flat = torch.zeros(2 * 5 * width, dtype=torch.uint8, device=device)
            gather([Piece(rows, 4, (2, 0), start, start + 5, flat)])
            slots = [(2, 0)[unit // 4] * 4 + unit % 4 for unit in range(start, start + 5)]
            again = torch.zeros_like(rows)
            scatter([Piece(again, 4, (2, 0), start, start + 5, flat)])
            if not (flat.view(2, 5, width).equal(rows[:, slots]) and again[:, slots].equal(rows[:, slots])):
                return f"rows of {width} bytes come out wrong"
        return ""

    return passes(trial, "blocks are copied by torch")


def _move(pieces: Sequence[Piece], *, to_blocks: bool) -> None:
    from workers.model.cuda.kernels import blocks as kernels

    if not pieces:
        return
    device = pieces[0].rows.device
    ids: list[int] = []
    known: dict[tuple[int, int, int], _Held] = {}  # the layers of a sequence share its blocks
    in_bytes = []
    for piece in pieces:
        units = piece.block_units
        first, last = piece.start // units, -(-piece.end // units)
        place = (id(piece.block_ids), first, last)
        if (held := known.get(place)) is None:
            used = piece.block_ids[first:last]
            assert len(used) == last - first, f"{len(piece.block_ids)} blocks do not hold {piece.end} units"
            held = known[place] = _Held(len(ids), min(used), max(used))
            ids += used
        planes, num_rows, width = piece.rows.shape
        assert held.least >= 0, f"block {held.least}"
        assert (held.most + 1) * units <= num_rows, f"block {held.most} of {num_rows // units}"
        size, count = piece.rows.element_size(), piece.end - piece.start
        assert piece.flat.numel() == planes * count * width * size, "flat memory of another size"
        places = (piece.rows.data_ptr(), piece.flat.data_ptr())
        steps = (width * size, piece.rows.stride(1) * size, piece.rows.stride(0) * size)
        in_bytes.append((places, steps, (count, planes * count, piece.start - first * units, units, held.first)))
    aligned = math.gcd(16, *(number for places, steps, _ in in_bytes for number in (*places, *steps)))
    word = min(aligned, 8)
    table = [(*places, *(step // word for step in steps), *rest) for places, steps, rest in in_bytes]
    widest = max(row[2] for row in table)
    words = next((width for width in WIDTHS if width >= widest), WIDTHS[-1])
    rows = TILE // words
    programs = max(-(-row[6] // rows) * -(-row[2] // words) for row in table)
    there = to_device(torch.tensor([*(number for row in table for number in row), *ids]), device)
    num_fields = len(table) * len(table[0])
    kernels.move[(programs, len(table))](
        there.view(WORDS[word]),
        there[:num_fields],
        there[num_fields:],
        TO_BLOCKS=to_blocks,
        IS_WIDE=aligned == 16,
        ROWS=rows,
        WORDS=words,
        num_warps=4,
    )
