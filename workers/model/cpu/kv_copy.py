"""Copies of token ranges between KV blocks in CPU memory, or to flat payloads, without the interpreter's lock.

A cache is [planes, num_blocks, block_nbytes] in bytes, contiguous; planes are keys and values. What would go beside a
cache is an assertion here: it would not raise by itself.
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
        flat.restype = blocks.restype = None
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


class Cache(NamedTuple):
    """Where one layer's blocks lie. Whoever makes it keeps the memory."""

    address: int
    planes: int
    num_blocks: int
    block_nbytes: int

    @property
    def plane_nbytes(self) -> int:
        return self.num_blocks * self.block_nbytes


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
    _library().baton_copy_flat(
        cache.address,
        cache.plane_nbytes,
        cache.planes,
        cache.block_nbytes,
        place.ids.buffer_info()[0],
        place.skip,
        place.nbytes,
        flat.data_ptr() if isinstance(flat, Tensor) else np.frombuffer(flat, dtype=np.uint8).ctypes.data,
        to_blocks,
    )


def copy_blocks(
    source: ForeignRange, cache: Cache, block_size: int, block_ids: Sequence[int], start: int, end: int
) -> None:
    """Tokens [start, end) of `source` to the sequence whose blocks are `block_ids`."""
    place = _locate(cache, block_size, block_ids, start, end)
    source_ids = _checked(source.cache, source.block_ids, len(place.ids))
    assert source.cache.planes == cache.planes, f"{source.cache.planes} planes to {cache.planes}"
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


def lay_out(block_nbytes: Sequence[int], planes: int, num_blocks: int, address: int) -> tuple[list[Cache], int]:
    """Layers one after the other from `address` on, each on a cache line's boundary; and the bytes they take."""
    caches = []
    at = 0
    for nbytes in block_nbytes:
        caches.append(Cache(address + at, planes, num_blocks, nbytes))
        at += -(-planes * num_blocks * nbytes // 64) * 64
    return caches, at
