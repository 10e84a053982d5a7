"""Copies of token ranges between KV blocks in CPU memory, or to flat payloads, without the interpreter's lock.

A cache is [planes, num_blocks, block_nbytes] in bytes, contiguous; planes are keys and values. Of its rows (one per
token) all bytes are meant, or the same part of each. What would go beside a cache is an assertion here: it would not
raise by itself.
"""

import ctypes
import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from workers.model.cpu import native

INT, POINTER = ctypes.c_int64, ctypes.c_void_p


@functools.cache
def _library() -> Any:
    library: Any = native.load("kv_copy")
    if library is not None:
        flat, blocks = library.baton_copy_flat, library.baton_copy_blocks
        flat.argtypes = (POINTER, INT, INT, INT, POINTER, INT, INT, POINTER, ctypes.c_int32)
        blocks.argtypes = (POINTER, INT, POINTER, POINTER, INT, POINTER, INT, INT, INT, INT)
        flat_part, blocks_part = library.baton_copy_flat_part, library.baton_copy_blocks_part
        flat_part.argtypes = (POINTER, INT, INT, INT, INT, INT, POINTER, INT, INT, POINTER, ctypes.c_int32)
        blocks_part.argtypes = (POINTER, INT, INT, POINTER, POINTER, INT, INT, POINTER, INT, INT, INT, INT, INT)
        flat.restype = blocks.restype = flat_part.restype = blocks_part.restype = None
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


class Cache(NamedTuple):
    """Where one layer's blocks lie. Whoever makes it keeps the memory."""

    address: int  # of the first row, or of what is meant of it
    planes: int
    num_blocks: int
    block_nbytes: int
    part_nbytes: int = 0  # of each row; 0: all of it

    @property
    def plane_nbytes(self) -> int:
        return self.num_blocks * self.block_nbytes

    def part(self, start: int, nbytes: int, block_size: int) -> "Cache":
        """The same cache, of whose rows only `nbytes` bytes from `start` on are meant."""
        row_nbytes = self.block_nbytes // block_size
        assert not self.part_nbytes, "a part of a part"
        assert 0 <= start < start + nbytes <= row_nbytes, f"{nbytes} bytes from {start} on, of {row_nbytes}"
        return self if nbytes == row_nbytes else self._replace(address=self.address + start, part_nbytes=nbytes)


@dataclass(frozen=True, slots=True)
class ForeignRange:
    """A payload that still lies in the blocks of another worker: those that hold the range, and no others."""

    cache: Cache
    block_ids: Sequence[int]


class _Place(NamedTuple):
    ids: "array[int]"
    skip: int  # bytes, in the first block
    nbytes: int  # per plane


def _locate(cache: Cache, block_size: int, block_ids: Sequence[int], start: int, end: int) -> _Place:
    first, last = start // block_size, -(-end // block_size)
    ids = _checked(cache, block_ids[first:last], last - first)
    token_nbytes = cache.block_nbytes // block_size
    return _Place(ids, (start - first * block_size) * token_nbytes, (end - start) * token_nbytes)


def _checked(cache: Cache, block_ids: Sequence[int], count: int) -> "array[int]":
    ids = array("q", block_ids)
    assert len(ids) == count, f"{len(ids)} blocks where {count} hold the range"
    assert not ids or (min(ids) >= 0 and max(ids) < cache.num_blocks), f"blocks {list(ids)} of {cache.num_blocks}"
    return ids


def copy_flat(
    cache: Cache, block_size: int, block_ids: Sequence[int], start: int, end: int, flat: Any, *, to_blocks: bool
) -> None:
    """Tokens [start, end) of the sequence whose blocks are `block_ids`, from or to `flat`.

    Args:
        flat: The range's first plane, then the next: a contiguous tensor, or with `to_blocks` anything with a buffer.
    """
    place = _locate(cache, block_size, block_ids, start, end)
    address = flat.data_ptr() if isinstance(flat, Tensor) else np.frombuffer(flat, dtype=np.uint8).ctypes.data
    if cache.part_nbytes:
        _copy_flat_part(cache, block_size, place.ids, start, end, address, to_blocks)
        return
    _library().baton_copy_flat(
        cache.address,
        cache.plane_nbytes,
        cache.planes,
        cache.block_nbytes,
        place.ids.buffer_info()[0],
        place.skip,
        place.nbytes,
        address,
        to_blocks,
    )


def _copy_flat_part(
    cache: Cache, block_size: int, ids: "array[int]", start: int, end: int, address: int, to_blocks: bool
) -> None:
    _library().baton_copy_flat_part(
        cache.address,
        cache.plane_nbytes,
        cache.planes,
        block_size,
        cache.block_nbytes // block_size,
        cache.part_nbytes,
        ids.buffer_info()[0],
        start % block_size,
        end - start,
        address,
        to_blocks,
    )


def copy_blocks(
    source: ForeignRange, cache: Cache, block_size: int, block_ids: Sequence[int], start: int, end: int
) -> None:
    """Tokens [start, end) of `source` to the sequence whose blocks are `block_ids`."""
    place = _locate(cache, block_size, block_ids, start, end)
    source_ids = _checked(source.cache, source.block_ids, len(place.ids))
    assert source.cache.planes == cache.planes, f"{source.cache.planes} planes to {cache.planes}"
    if source.cache.part_nbytes or cache.part_nbytes:
        _copy_blocks_part(source.cache, source_ids, cache, place.ids, block_size, start, end)
        return
    assert source.cache.block_nbytes == cache.block_nbytes, f"blocks of {source.cache.block_nbytes} bytes"
    _library().baton_copy_blocks(
        source.cache.address,
        source.cache.plane_nbytes,
        source_ids.buffer_info()[0],
        cache.address,
        cache.plane_nbytes,
        place.ids.buffer_info()[0],
        cache.planes,
        cache.block_nbytes,
        place.skip,
        place.nbytes,
    )


def _copy_blocks_part(
    source: Cache,
    source_ids: "array[int]",
    target: Cache,
    target_ids: "array[int]",
    block_size: int,
    start: int,
    end: int,
) -> None:
    source_row, target_row = source.block_nbytes // block_size, target.block_nbytes // block_size
    nbytes = target.part_nbytes or target_row
    assert (source.part_nbytes or source_row) == nbytes, f"rows of {source.part_nbytes or source_row} bytes to {nbytes}"
    _library().baton_copy_blocks_part(
        source.address,
        source.plane_nbytes,
        source_row,
        source_ids.buffer_info()[0],
        target.address,
        target.plane_nbytes,
        target_row,
        target_ids.buffer_info()[0],
        target.planes,
        block_size,
        nbytes,
        start % block_size,
        end - start,
    )


def lay_out(sizes: Sequence[tuple[int, int, int]], address: int) -> tuple[list[Cache], int]:
    """Caches one after the other from `address` on, each on a cache line's boundary; and the bytes they take.

    Args:
        sizes: (block_nbytes, planes, num_blocks) of each.
    """
    caches = []
    at = 0
    for block_nbytes, planes, num_blocks in sizes:
        caches.append(Cache(address + at, planes, num_blocks, block_nbytes))
        at += -(-planes * num_blocks * block_nbytes // 64) * 64
    return caches, at
