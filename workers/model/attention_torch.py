"""Paged attention in plain torch, one sequence at a time: the portable path, and the reference of the others.

Keys and values of a sequence are viewed where its blocks lie one after the other, else gathered. Scaled dot product
attention does the rest; where a cap or sinks bind, which it does not know, the softmax is written out in float32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.model import fp8, trees
from workers.model.attention import PagedMeta, Scoring
from workers.model.fp8 import KVScales


def paged_attention(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: PagedMeta,
    scoring: Scoring,
    scales: KVScales | None = None,
) -> Tensor:
    """See `workers.model.attention`."""
    window = scoring.window
    output = torch.empty_like(query)
    for i in range(meta.num_chunks):
        begin, end = meta.query_starts[i], meta.query_starts[i + 1]
        context = meta.num_contexts[i]
        # keys [oldest, length) are seen by some query of the chunk
        oldest = 0 if window is None else max(0, context + 1 - window)
        length = context + end - begin
        keys, values = (_tokens(cache, meta, i, oldest, length) for cache in (k_cache, v_cache))
        if scales is not None:
            keys = fp8.read(keys, scales.key, query.dtype)
            values = fp8.read(values, scales.value, query.dtype)
        mine, out = query[begin:end], output[begin:end]
        is_written_out = scoring.softcap is not None or scoring.sinks is not None
        is_causal = context == 0 and i not in meta.trees and (window is None or length <= window)
        without_mask = end - begin == 1 or (is_causal and not is_written_out)
        mask = None if without_mask else _mask_of(meta, i, oldest, window, query.device)
        if is_written_out:
            _written_out(mine, keys, values, mask, scoring, out)
        elif end - begin == 1:
            _one_row(mine, keys, values, scoring.scale, out)
        else:
            _many_rows(mine, keys, values, mask, scoring.scale, out)
    return output


def _tokens(cache: Tensor, meta: PagedMeta, chunk: int, first: int, end: int) -> Tensor:
    """[end - first, num_kv_heads, head_dim]: tokens [first, end) of the chunk's sequence."""
    size = cache.shape[1]
    key = (chunk, first // size, -(-end // size))
    if key not in meta.gathers:
        meta.gathers[key] = _index(meta.block_ids[chunk][key[1] : key[2]], cache.device)
    index = meta.gathers[key]
    if isinstance(index, slice):
        found = cache[index]
    elif cache.dtype == fp8.DTYPE:  # few operations know it: bytes are bytes
        found = cache.view(torch.uint8).index_select(0, index).view(fp8.DTYPE)
    else:
        found = cache.index_select(0, index)
    return found.flatten(0, 1)[first % size : first % size + end - first]


def _index(used: Sequence[int], device: torch.device) -> slice | Tensor:
    """A slice where the blocks lie one after the other."""
    if used[-1] - used[0] == len(used) - 1 and all(b == used[0] + i for i, b in enumerate(used)):
        return slice(used[0], used[-1] + 1)
    return torch.tensor(used, device=device)


def _mask_of(meta: PagedMeta, chunk: int, oldest: int, window: int | None, device: torch.device) -> Tensor:
    """Of the chunk's queries and the sequence's keys from `oldest` on: True where a query sees a key."""
    num_queries = meta.query_starts[chunk + 1] - meta.query_starts[chunk]
    num_before = meta.num_contexts[chunk] - oldest
    if chunk in meta.trees:
        key = (chunk, oldest, window)
        if key not in meta.masks:
            meta.masks[key] = _tree_mask(num_before, meta.trees[chunk], window).to(device)
        return meta.masks[key]
    return _mask(num_before, num_queries, window, device)


def _tree_mask(context: int, parents: Sequence[int], window: int | None) -> Tensor:
    """The same of a tree: [1 + len(parents), context + 1 + len(parents)]."""
    bits = torch.tensor(trees.seen(parents, window))[:, None]
    own = (bits >> torch.arange(len(bits))) & 1 == 1
    before = torch.ones(len(bits), context, dtype=torch.bool)
    if window is not None:
        positions = torch.tensor([context, *(context + depth for depth in trees.depths(parents))])
        before = torch.arange(context) > positions[:, None] - window
    return torch.cat([before, own], dim=1)


def _mask(context: int, num_queries: int, window: int | None, device: torch.device) -> Tensor:
    """[num_queries, context + num_queries]: True where a query sees a key."""
    keys = torch.arange(context + num_queries, device=device)
    queries = keys[context:, None]
    mask = keys <= queries
    if window is not None:
        mask &= keys > queries - window
    return mask


def _by_kv_head(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query [num_kv_heads, group, n, head_dim], keys and values [num_kv_heads, 1, length, head_dim], all views."""
    num_queries, num_heads, head_dim = query.shape
    num_kv_heads = keys.shape[1]
    grouped = query.view(num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim).permute(1, 2, 0, 3)
    return grouped, keys.transpose(0, 1)[:, None], values.transpose(0, 1)[:, None]


def _one_row(query: Tensor, keys: Tensor, values: Tensor, scale: float, output: Tensor) -> None:
    """The heads of a group are the rows, so that keys are read once."""
    q, k, v = _by_kv_head(query, keys, values)
    found = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, scale=scale)  # [num_kv_heads, 1, group, head_dim]
    output.copy_(found.reshape(output.shape))


def _many_rows(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, output: Tensor) -> None:
    """`mask` None: causal, and the keys are those of the queries."""
    q, k, v = _by_kv_head(query, keys, values)
    k, v = k.expand(-1, q.shape[1], -1, -1), v.expand(-1, q.shape[1], -1, -1)
    found = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale)
    output.view(query.shape[0], *q.shape[:2], -1).copy_(found.permute(2, 0, 1, 3))


def _written_out(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scoring: Scoring,
    output: Tensor,
) -> None:
    scale, _, softcap, sinks = scoring
    q, k, v = _by_kv_head(query, keys, values)
    scores = torch.matmul(q.float(), k.float().transpose(2, 3)) * scale  # [num_kv_heads, group, n, length]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.float().view(q.shape[0], q.shape[1], 1, 1).expand(-1, -1, q.shape[2], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    found = torch.matmul(weights, v.float())
    output.view(query.shape[0], q.shape[0], q.shape[1], -1).copy_(found.permute(2, 0, 1, 3))
