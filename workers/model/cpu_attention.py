"""Paged attention on CPU cores: a C kernel that reads the blocks where they lie, of either dtype, on torch's threads.

The kernel of `cpu_attention.c` is compiled on first use (see `workers.model.native`); where that fails,
`available()` is False and `workers.model.attention_torch` serves.
"""

import ctypes
import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from workers.model import attention_torch, native
from workers.model.attention import PagedMeta

DTYPES = (torch.bfloat16, torch.float32)
NO_LIMIT = 2**31 - 1
# Chunks of more queries are matrix products, which torch's scaled dot product attention hands to the processor's matrix
# unit: 512 queries after 1,536 keys, 16/8 heads of 64, on a 2-core Xeon with AMX: bfloat16 10 ms, 31 ms by the kernel
# here; float32 29 and 35 ms. Caps and sinks are unknown to it.
MAX_QUERIES = {torch.bfloat16: 24, torch.float32: 256}


class _Args(ctypes.Structure):
    """`baton_attention_args` of cpu_attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "k_cache", "v_cache", "output")),
        *((name, ctypes.c_void_p) for name in ("query_start", "num_context", "block_tables", "sinks")),
        *((name, ctypes.c_int64) for name in ("num_chunks", "max_blocks", "block_size")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "head_dim")),
        *((name, ctypes.c_int64) for name in ("query_token_stride", "query_head_stride")),
        *((name, ctypes.c_int64) for name in ("k_block_stride", "k_token_stride", "v_block_stride", "v_token_stride")),
        ("window", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("max_queries", ctypes.c_int32),
        ("is_bf16", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
    )


@functools.cache
def _kernel() -> Callable[..., int] | None:
    library = native.load("cpu_attention")
    if library is None:
        return None
    function = library.baton_paged_attention
    function.argtypes = (ctypes.POINTER(_Args),)
    function.restype = ctypes.c_int
    kernel: Callable[..., int] = function
    return kernel


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call (about a second)."""
    return _kernel() is not None


def paged_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """See `workers.model.attention`; only where `available()`.

    Args:
        query: bfloat16 or float32 as the caches; any strides but for the last, which must be 1.
        out: Where to write, contiguous, [T, num_heads, head_dim].
    """
    kernel = _kernel()
    assert kernel is not None, "paged_attention without its kernel: ask available() first"
    assert query.dtype in DTYPES
    assert query.dtype == k_cache.dtype == v_cache.dtype
    if query.stride(2) != 1:
        query = query.contiguous()
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype)
    if sinks is not None:
        sinks = sinks.float().contiguous()
    longest = MAX_QUERIES[query.dtype] if softcap is None and sinks is None else NO_LIMIT
    for i in range(meta.num_chunks):
        if meta.query_starts[i + 1] - meta.query_starts[i] > longest:
            _by_matrix_products(i, query, k_cache, v_cache, meta, scale, window, out)
    args = _Args(
        query.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        out.data_ptr(),
        meta.query_start.data_ptr(),
        meta.num_context.data_ptr(),
        meta.block_tables.data_ptr(),
        sinks.data_ptr() if sinks is not None else None,
        meta.block_tables.shape[0],
        meta.block_tables.shape[1],
        meta.block_size,
        query.shape[1],
        k_cache.shape[2],
        query.shape[2],
        query.stride(0),
        query.stride(1),
        k_cache.stride(0),
        k_cache.stride(1),
        v_cache.stride(0),
        v_cache.stride(1),
        window or 0,
        scale,
        softcap or 0.0,
        longest,
        query.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    if kernel(ctypes.byref(args)):
        raise MemoryError("no memory for the partial results of attention")
    return out


def _by_matrix_products(
    chunk: int,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    scale: float,
    window: int | None,
    out: Tensor,
) -> None:
    begin, end = meta.query_starts[chunk], meta.query_starts[chunk + 1]
    alone = dataclasses.replace(
        meta,
        query_starts=(0, end - begin),
        num_contexts=(meta.num_contexts[chunk],),
        block_ids=(meta.block_ids[chunk],),
    )
    out[begin:end] = attention_torch.paged_attention(
        query[begin:end], k_cache, v_cache, alone, scale=scale, window=window, softcap=None, sinks=None
    )
