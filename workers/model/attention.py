"""What every attention path is told about a step, and the one signature they share.

A path is a function `paged_attention(query, k_cache, v_cache, meta, scoring, scales) -> output`:

    query, output: [T, num_heads, head_dim], chunks one after the other
    k_cache, v_cache: [num_blocks, block_size, num_kv_heads, head_dim], views of one layer's blocks; the last two
        dimensions are contiguous, and the chunks' own keys and values are in them already

Query head h reads KV head h // (num_heads // num_kv_heads). The dtype of query, cache and output is the same; where
there are scales, the cache is in FP8 instead, see `workers.model.fp8`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from workers.model import trees
from workers.model.contract import Chunk
from workers.model.fp8 import KVScales


class Scoring(NamedTuple):
    """How a layer scores its keys."""

    scale: float  # factor of q.k, before the cap
    window: int | None = None  # a token at position p sees positions (p - window, p]; None: all of [0, p]
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap); None: no cap
    sinks: Tensor | None = None  # [num_heads] logits that take part in the softmax and carry no value


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedMeta:
    """One step's batch, layer-independent. Chunk i holds query rows [query_start[i], query_start[i + 1]).

    Tensors are on the CPU and contiguous; the lists say the same for Python loops.
    """

    query_start: Tensor  # [num_chunks + 1] int32
    num_context: Tensor  # [num_chunks] int32: tokens of the sequence before the chunk
    block_tables: Tensor  # [num_chunks, max_blocks] int32, padded with 0
    slot_mapping: Tensor  # [T] int64: block * block_size + offset of each query row's own key and value
    positions: Tensor  # [T] int64: of each query row in its sequence; in a tree that of its parent + 1
    query_starts: tuple[int, ...]  # = query_start
    num_contexts: tuple[int, ...]  # = num_context
    block_ids: tuple[Sequence[int], ...]  # per chunk, unpadded; may run past the chunk's last token
    block_size: int
    # Of chunks that are trees, by number: as `Chunk.parents`. Keys and values lie in the order of the rows.
    trees: Mapping[int, Sequence[int]] = field(default_factory=dict)
    # (chunk, first block, end block) -> how `attention_torch` gathers them: a new index on a GPU waits for it
    gathers: dict[tuple[int, int, int], slice | Tensor] = field(default_factory=dict)
    # (chunk, first key, window) -> what the rows of a tree see, as `attention_torch` makes it for all layers
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    seen: dict[int | None, Tensor] = field(default_factory=dict)  # of `seen_rows`, by window

    @property
    def num_chunks(self) -> int:
        return len(self.num_contexts)

    @property
    def num_tokens(self) -> int:
        return self.query_starts[-1]

    def seen_rows(self, window: int | None) -> Tensor | None:
        """[T] int64: for a row of a tree the bits of its chunk's rows that it sees, its own included; for others 0.

        None: no chunk is a tree.
        """
        if not self.trees:
            return None
        if window not in self.seen:
            bits = torch.zeros(self.num_tokens, dtype=torch.int64)
            for chunk, parents in self.trees.items():
                begin, end = self.query_starts[chunk], self.query_starts[chunk + 1]
                bits[begin:end] = torch.tensor(trees.seen(parents, window))
            self.seen[window] = bits
        return self.seen[window]


class PagedAttention(Protocol):
    """See the module's text."""

    def __call__(
        self,
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor: ...


def build_meta(chunks: Sequence[Chunk], block_size: int) -> PagedMeta:
    """Of each chunk, only the blocks that its tokens reach are kept."""
    starts, contexts, tables = [0], [], []
    positions: list[int] = []
    slots: list[int] = []
    shapes: dict[int, Sequence[int]] = {}
    for number, chunk in enumerate(chunks):
        first, end = chunk.start, chunk.start + len(chunk.token_ids)
        table = chunk.block_ids[: -(-end // block_size)]
        if end - first == 1:  # most are: a large step has hundreds
            starts.append(starts[-1] + 1)
            contexts.append(first)
            tables.append(table)
            positions.append(first)
            slots.append(table[-1] * block_size + first % block_size)
            continue
        starts.append(starts[-1] + end - first)
        contexts.append(first)
        tables.append(table)
        if chunk.parents:
            shapes[number] = chunk.parents
            positions += (first + depth for depth in (0, *trees.depths(chunk.parents)))
        else:
            positions += range(first, end)
        slots += [table[p // block_size] * block_size + p % block_size for p in range(first, end)]
    block_tables = np.zeros((len(tables), max(map(len, tables))), dtype=np.int32)
    for row, table in zip(block_tables, tables, strict=True):
        row[: len(table)] = table
    return PagedMeta(
        query_start=torch.tensor(starts, dtype=torch.int32),
        num_context=torch.tensor(contexts, dtype=torch.int32),
        block_tables=torch.from_numpy(block_tables),
        slot_mapping=torch.tensor(slots),
        positions=torch.tensor(positions),
        query_starts=tuple(starts),
        num_contexts=tuple(contexts),
        block_ids=tuple(tables),
        block_size=block_size,
        trees=shapes,
    )
