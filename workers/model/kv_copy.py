"""Copies between KV blocks in CPU memory and a flat payload, without the interpreter's lock."""

import ctypes
import functools
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from workers.model import native

INT, POINTER = ctypes.c_int64, ctypes.c_void_p


@functools.cache
def _library() -> Any:
    library: Any = native.load("kv_copy")
    if library is not None:
        library.baton_copy_kv.argtypes = (POINTER, INT, INT, INT, POINTER, INT, INT, POINTER, ctypes.c_int32)
        library.baton_copy_kv.restype = None
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


def copy(cache: Tensor, block_ids: Sequence[int], start: int, end: int, flat: Any, *, to_blocks: bool) -> None:
    """Tokens [start, end) of the sequence whose blocks are `block_ids`, from or to `flat`.

    Args:
        cache: [2, num_blocks, block_size, num_kv_heads, head_dim], contiguous.
        flat: Keys of the range, then values: a contiguous tensor, or with `to_blocks` anything that has a buffer.
    """
    block_size = cache.shape[2]
    block_nbytes = cache.stride(1) * cache.element_size()
    token_nbytes = block_nbytes // block_size
    first, last = start // block_size, -(-end // block_size)
    ids = array("q", block_ids[first:last])
    # What would write beside the cache is a bug of the caller's, and would not raise by itself.
    assert len(ids) == last - first, f"{len(block_ids)} blocks of {block_size} do not hold {end} tokens"
    assert not ids or 0 <= min(ids) <= max(ids) < cache.shape[1], f"blocks {list(ids)} of {cache.shape[1]}"
    _library().baton_copy_kv(
        cache.data_ptr(),
        cache.stride(0) * cache.element_size(),
        cache.shape[0],
        block_nbytes,
        ids.buffer_info()[0],
        (start - first * block_size) * token_nbytes,
        (end - start) * token_nbytes,
        flat.data_ptr() if isinstance(flat, Tensor) else np.frombuffer(flat, dtype=np.uint8).ctypes.data,
        to_blocks,
    )
