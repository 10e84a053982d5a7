"""Softmax attention over a prompt in pieces (LASP-2H): every rank gathers all keys and values and keeps its queries.

Positions are absolute: a rank's query sees all keys up to its own position, of cached tokens, earlier pieces and its
own. A rank that keeps gathered keys and values has the whole prompt's, and continues it alone or in chunks.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.parallel.gathering import SequenceRanks

QUERIES = 512  # of which one mask is made


class KeysAndValues:
    """The gather of one layer, started with this rank's piece; meanwhile the queries can be computed."""

    def __init__(self, ranks: SequenceRanks, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> None:
        """
        Args:
            keys: [n, num_kv_heads, head_dim] of this rank's piece.
            values: [n, num_kv_heads, value_dim], of the same dtype.
            lengths: Of every rank's piece, in tokens.
        """
        self._ranks, self._lengths = ranks, lengths
        self._own = keys, values
        rows = torch.cat([keys, values], dim=-1)
        part = rows.new_zeros((max(lengths), *rows.shape[1:]))
        part[: len(rows)] = rows
        self._gathering = ranks.gather(part, ranks.keys)

    def wait(self) -> tuple[Tensor, Tensor]:
        """Of all pieces, in order: [tokens, num_kv_heads, ...]; views of one tensor."""
        return self._first(self._ranks.size)

    def seen(self) -> tuple[Tensor, Tensor]:
        """Of this rank's piece and those before it: what its queries may see. The first rank does not wait."""
        return self._own if self._ranks.rank == 0 else self._first(self._ranks.rank + 1)

    def _first(self, num_ranks: int) -> tuple[Tensor, Tensor]:
        parts = self._gathering.first(num_ranks)
        rows = torch.cat([part[:n] for part, n in zip(parts, self._lengths, strict=False)])
        head_dim = self._own[0].shape[-1]
        return rows[..., :head_dim], rows[..., head_dim:]


def causal_attention(query: Tensor, keys: Tensor, values: Tensor, *, scale: float) -> Tensor:
    """Queries of the last tokens, each over all keys up to its own.

    Args:
        query: [n, num_heads, head_dim], n <= tokens.
        keys, values: [tokens, num_kv_heads, ...]; num_heads is a multiple of num_kv_heads.
    Returns:
        [n, num_heads, value_dim]
    """
    num_tokens, num_queries, num_kv_heads = len(keys), len(query), keys.shape[1]
    out = query.new_empty((*query.shape[:2], values.shape[-1]))
    group, head_dim = query.shape[1] // num_kv_heads, query.shape[2]
    q = query.view(num_queries, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)  # [num_kv_heads, group, n, head_dim]
    k, v = (x.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for x in (keys, values))
    mask = _mask(min(QUERIES, num_queries), num_tokens, query)
    for start in range(0, num_queries, QUERIES):
        end = min(start + QUERIES, num_queries)
        before = num_tokens - num_queries + start  # keys that all of these queries see
        part = mask[: end - start, num_tokens - before : num_tokens + end - start]
        seen = before + end - start
        found = F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :seen], v[:, :, :seen], part, scale=scale)
        out[start:end] = found.permute(2, 0, 1, 3).flatten(1, 2)
    return out


def _mask(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """[num_queries, num_keys + num_queries]: 0 where seen, else -inf; row i sees num_keys + i + 1 keys."""
    return torch.full((num_queries, num_keys + num_queries), -torch.inf, dtype=like.dtype, device=like.device).triu_(
        num_keys + 1
    )
