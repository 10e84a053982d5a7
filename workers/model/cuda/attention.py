"""Paged attention on CUDA by FlashInfer, where it is installed and knows the head's size, and by torch.

`gathered` has shapes that depend on the batch's size and the tables' width alone, and `FlashInfer` may be told to keep
its plan in fixed buffers: both can be captured in a CUDA graph (see `workers.model.cuda.graphs`).
"""

import importlib.util
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.model import attention_torch, fp8
from workers.model.attention import PagedAttention, PagedMeta, Scoring
from workers.model.fp8 import KVScales

FLASHINFER_HEAD_DIMS = frozenset({64, 128, 256})
FLASHINFER_DTYPES = frozenset({torch.float16, torch.bfloat16})
WORKSPACE_NBYTES = 128 << 20  # what FlashInfer's documentation recommends


def flashinfer_available(head_dims: set[int], dtype: torch.dtype) -> bool:
    """Whether every layer can be served by FlashInfer."""
    return (
        dtype in FLASHINFER_DTYPES
        and head_dims <= FLASHINFER_HEAD_DIMS
        and importlib.util.find_spec("flashinfer") is not None
    )


class PlanKey(NamedTuple):
    """What FlashInfer plans for; layers that agree on it share a plan."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    kv_dtype: torch.dtype
    scale: float
    window: int | None
    softcap: float | None


class FlashInfer:
    """Plans once per step and kind of layer, at the first layer that needs it.

    With `fixed_batch` set, plans live in buffers of that many sequences and `max_blocks` blocks in all, and `begin`
    renews all known plans, so that a captured graph may be replayed.
    """

    def __init__(
        self, device: torch.device, workspace: Tensor, *, fixed_batch: int | None = None, max_blocks: int = 0
    ) -> None:
        self.device = device
        self.workspace = workspace
        self.fixed_batch = fixed_batch
        self.max_blocks = max_blocks
        self._wrappers: dict[PlanKey, Any] = {}
        self._planned: set[PlanKey] = set()
        self._meta: PagedMeta | None = None

    def begin(self, meta: PagedMeta) -> None:
        """Names the next step's batch."""
        self._meta = meta
        self._planned.clear()
        if self.fixed_batch is not None:
            for kind in self._wrappers:
                self._plan(kind, meta)

    def __call__(
        self,
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor:
        """See `workers.model.attention`. Steps with trees attend by torch: plans here are causal.

        It takes one scale for all heads, we may have one for each: so queries carry those of keys, and those of values
        come after it.
        """
        if meta.trees:
            return attention_torch.paged_attention(query, k_cache, v_cache, meta, scoring, scales)
        if meta is not self._meta:
            self.begin(meta)
        kind = PlanKey(query.shape[1], k_cache.shape[2], query.shape[2], query.dtype, k_cache.dtype, *scoring[:3])
        if kind not in self._planned:
            self._plan(kind, meta)
        if scales is None:
            return self._attend(kind, query, k_cache, v_cache, scoring)
        found = self._attend(kind, _by_kv_head(query, scales.key), k_cache, v_cache, scoring)
        return _by_kv_head(found, scales.value)

    def _attend(self, kind: PlanKey, query: Tensor, k_cache: Tensor, v_cache: Tensor, scoring: Scoring) -> Tensor:
        wrapper = self._wrappers[kind]
        if scoring.sinks is None:
            found: Tensor = wrapper.run(query.contiguous(), (k_cache, v_cache))
            return found
        found, lse = wrapper.run(query.contiguous(), (k_cache, v_cache), return_lse=True)  # lse: [T, num_heads], log2
        # a sink adds exp(sink) to the softmax's sum: everything else shrinks by sum / (sum + exp(sink))
        share = torch.sigmoid(lse * math.log(2) - scoring.sinks.float())
        return (found * share[..., None]).to(query.dtype)

    def _plan(self, kind: PlanKey, meta: PagedMeta) -> None:
        if kind not in self._wrappers:
            self._wrappers[kind] = self._make()
        ends = [context + b - a for context, a, b in _rows(meta)]
        counts = [len(blocks) for blocks in meta.block_ids]
        indptr = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        self._wrappers[kind].plan(
            meta.query_start,
            indptr,
            torch.tensor([block for blocks in meta.block_ids for block in blocks], dtype=torch.int32).to(self.device),
            torch.tensor([(end - 1) % meta.block_size + 1 for end in ends], dtype=torch.int32),
            kind.num_heads,
            kind.num_kv_heads,
            kind.head_dim,
            meta.block_size,
            causal=True,
            sm_scale=kind.scale,
            window_left=-1 if kind.window is None else kind.window - 1,
            logits_soft_cap=kind.softcap,
            q_data_type=kind.dtype,
            kv_data_type=kind.kv_dtype,
        )
        self._planned.add(kind)

    def _make(self) -> Any:
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        if self.fixed_batch is None:
            return BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD", backend="fa2")

        def buffer(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=self.device)

        return BatchPrefillWithPagedKVCacheWrapper(
            self.workspace,
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=buffer(self.fixed_batch + 1),
            paged_kv_indptr_buf=buffer(self.fixed_batch + 1),
            paged_kv_indices_buf=buffer(self.max_blocks),
            paged_kv_last_page_len_buf=buffer(self.fixed_batch),
            backend="fa2",
        )


def _by_kv_head(x: Tensor, factor: Tensor) -> Tensor:
    """x: [T, num_heads, head_dim], times the factor of each head's KV head."""
    grouped = x.reshape(len(x), len(factor), -1, x.shape[2])
    return (grouped * factor[:, None, None]).to(x.dtype).view(x.shape)


def _rows(meta: PagedMeta) -> list[tuple[int, int, int]]:
    """(num_context, first row, end row) of each chunk."""
    return list(zip(meta.num_contexts, meta.query_starts[:-1], meta.query_starts[1:], strict=True))


def gathered(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scoring: Scoring,
    scales: KVScales | None = None,
) -> Tensor:
    """Attention of one token per sequence over gathered blocks; no shape depends on a value, nothing synchronizes.

    Args:
        query: [batch, num_heads, head_dim].
        tables: [batch, width] int32, on the device; blocks past a sequence's end may be any that exist.
        lengths: [batch] int64, on the device: tokens of each sequence, its new one included, >= 1.
    """
    scale, window, softcap, sinks = scoring
    batch, num_heads, head_dim = query.shape
    num_kv_heads = k_cache.shape[2]
    flat = tables.reshape(-1)
    if scales is None:
        keys, values = k_cache.index_select(0, flat), v_cache.index_select(0, flat)
    else:
        bytes_of = (cache.view(torch.uint8).index_select(0, flat).view(fp8.DTYPE) for cache in (k_cache, v_cache))
        keys, values = (fp8.read(kept, one, query.dtype) for kept, one in zip(bytes_of, scales.factors, strict=True))
    # [batch, num_kv_heads, width * block_size, head_dim]
    keys = keys.view(batch, -1, num_kv_heads, head_dim).transpose(1, 2)
    values = values.view(batch, -1, num_kv_heads, head_dim).transpose(1, 2)
    positions = torch.arange(keys.shape[2], device=query.device)
    mask = positions < lengths[:, None]
    if window is not None:
        mask &= positions >= lengths[:, None] - window
    mask = mask[:, None, None]  # [batch, 1, 1, width * block_size]
    grouped = query.view(batch, num_kv_heads, num_heads // num_kv_heads, head_dim)
    if softcap is None and sinks is None:
        found = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
        return found.reshape(batch, num_heads, head_dim)
    scores = torch.matmul(grouped.float(), keys.float().transpose(2, 3)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.float().view(1, num_kv_heads, -1, 1).expand(batch, -1, -1, 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return torch.matmul(weights, values.float()).to(query.dtype).reshape(batch, num_heads, head_dim)


def over_tables(tables: Tensor, lengths: Tensor) -> PagedAttention:
    """`gathered` over tables that stay where they are while their values change."""

    def attend(
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor:
        return gathered(query, k_cache, v_cache, tables, lengths, scoring, scales)

    return attend


def make_workspace(device: torch.device) -> Tensor:
    """What FlashInfer's wrappers share that do not run at the same time."""
    return torch.empty(WORKSPACE_NBYTES, dtype=torch.uint8, device=device)
