"""Paged attention on CPU cores, over the blocks where they lie, on torch's threads.

Two C kernels, compiled on first use (see `workers.model.cpu.native`): `attention.c` for chunks of few queries, which
wait for memory, and `attention_tiles.c` for chunks of many in bfloat16, which are matrix products. Where the second
cannot run, torch's scaled dot product attention takes the long chunks; where the first cannot be built, `available()`
is False and `workers.model.attention_torch` serves.
"""

import ctypes
import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from workers.model import attention_torch
from workers.model.attention import PagedMeta, Scoring
from workers.model.cpu import native
from workers.model.fp8 import KVScales

DTYPES = (torch.bfloat16, torch.float32)
NO_LIMIT = 2**31 - 1
# Up to this many queries of a chunk the kernel for few is the faster one; above, matrix products are. 512 queries after
# 1,536 keys, 16/8 heads of 64, bfloat16 on two cores, by the kernel for few, by torch, by tiles: 31, 10 and 5 ms on a
# Xeon with AMX; 24, 29 and 5 ms on an EPYC without. float32 on the Xeon: 35 ms, and 29 ms by torch. torch knows neither
# caps nor sinks.
MOST_TILES = 2  # 2: AMX, 1: AVX-512's dot products
MAX_QUERIES_BESIDE_TILES = 8
MAX_QUERIES = {torch.bfloat16: 24, torch.float32: 256}


class _Args(ctypes.Structure):
    """`baton_attention_args` of attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "k_cache", "v_cache", "output")),
        *((name, ctypes.c_void_p) for name in ("query_start", "num_context", "block_tables", "sinks")),
        *((name, ctypes.c_void_p) for name in ("seen", "positions")),
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


Kernel = Callable[..., int]


def _function(library: str, name: str) -> Kernel | None:
    loaded = native.load(library)
    if loaded is None:
        return None
    function = getattr(loaded, name)
    function.argtypes = (ctypes.POINTER(_Args),)
    function.restype = ctypes.c_int
    kernel: Kernel = function
    return kernel


@functools.cache
def _kernel() -> Kernel | None:
    return _function("attention", "baton_paged_attention")


@functools.cache
def _tile_kernel() -> Kernel | None:
    """None on a processor without bfloat16 products; AMX's are taken where the operating system grants them."""
    library = native.load("attention_tiles")
    if library is None or not library.baton_attention_tiles_choose(MOST_TILES):
        return None
    return _function("attention_tiles", "baton_paged_attention_tiles")


def available() -> bool:
    """Whether the kernel for few queries is there; compiles both on the first call (some seconds)."""
    _tile_kernel()
    return _kernel() is not None


def paged_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    scoring: Scoring,
    scales: KVScales | None = None,
) -> Tensor:
    """See `workers.model.attention`; only where `available()`, and not of FP8.

    Args:
        query: bfloat16 or float32 as the caches; any strides but for the last, which must be 1.
    """
    kernel = _kernel()
    assert kernel is not None, "paged_attention without its kernel: ask available() first"
    assert scales is None, "the kernel reads what has the queries' dtype"
    assert query.dtype in DTYPES
    assert query.dtype == k_cache.dtype == v_cache.dtype
    if query.stride(2) != 1:
        query = query.contiguous()
    if scoring.sinks is not None:
        scoring = scoring._replace(sinks=scoring.sinks.float().contiguous())
    tiles = _tile_kernel() if query.dtype == torch.bfloat16 and query.shape[2] in range(32, 257, 32) else None
    if tiles is not None:
        limit = MAX_QUERIES_BESIDE_TILES
    else:
        limit = MAX_QUERIES[query.dtype] if scoring.softcap is None and scoring.sinks is None else NO_LIMIT
    out = torch.empty(query.shape, dtype=query.dtype)
    long, others = _split(meta, limit)
    args = ctypes.byref(_args(query, k_cache, v_cache, meta, scoring, out, limit))
    failed = others and kernel(args)
    if long and tiles is not None:
        failed |= tiles(args)
    elif long:
        for chunk in long:
            _by_matrix_products(chunk, query, k_cache, v_cache, meta, scoring, out)
    if failed:
        raise MemoryError(f"no memory for the partial results of attention to {meta.num_tokens} tokens")
    return out


def _args(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, meta: PagedMeta, scoring: Scoring, out: Tensor, limit: int
) -> _Args:
    """The tensors must outlive what is done with it."""
    seen = meta.seen_rows(scoring.window)  # kept by `meta`
    return _Args(
        query.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        out.data_ptr(),
        meta.query_start.data_ptr(),
        meta.num_context.data_ptr(),
        meta.block_tables.data_ptr(),
        scoring.sinks.data_ptr() if scoring.sinks is not None else None,
        seen.data_ptr() if seen is not None else None,
        meta.positions.data_ptr(),
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
        scoring.window or 0,
        scoring.scale,
        scoring.softcap or 0.0,
        limit,
        query.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )


def _split(meta: PagedMeta, limit: int) -> tuple[list[int], bool]:
    """The chunks of more than `limit` queries, and whether there are others."""
    if meta.num_tokens == meta.num_chunks:
        return [], True
    starts = meta.query_starts
    long = [i for i in range(meta.num_chunks) if starts[i + 1] - starts[i] > limit]
    return long, len(long) < meta.num_chunks


def _by_matrix_products(
    chunk: int,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    scoring: Scoring,
    out: Tensor,
) -> None:
    begin, end = meta.query_starts[chunk], meta.query_starts[chunk + 1]
    alone = dataclasses.replace(
        meta,
        query_starts=(0, end - begin),
        num_contexts=(meta.num_contexts[chunk],),
        block_ids=(meta.block_ids[chunk],),
        trees={0: meta.trees[chunk]} if chunk in meta.trees else {},
        gathers={},
        masks={},
    )
    out[begin:end] = attention_torch.paged_attention(query[begin:end], k_cache, v_cache, alone, scoring)
