"""Paged attention by Triton kernels of our own; see `kernels.ragged` for how they divide the work.

Nothing here waits for the device, and nothing but the batch's shape comes from the host: a step's numbers are one copy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workers.model.attention import PagedMeta, Scoring
from workers.model.cuda.inputs import side_by_side
from workers.model.cuda.launching import power_of_2, to_device
from workers.model.fp8 import KVScales

HEAD_DIMS = range(16, 257)
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})
MIN_ROWS = 16  # of a tile: the least that tensor cores take
TILES = 256  # that a plan looks at together
NUM_INTERPRETED = 7  # programs, where there is no device to fill


def suits(head_dims: set[int], dtype: torch.dtype) -> bool:
    """Whether layers of these heads are computed."""
    return dtype in DTYPES and all(dim in HEAD_DIMS for dim in head_dims)


# (programs, rows, dimensions) -> what shares of a tile saw
Partials = dict[tuple[int, int, int], tuple[Tensor, Tensor]]


class Tiling(NamedTuple):
    """
    Attributes:
        rows: Of a tile: queries times the heads that share a KV head.
        keys: Looked at together.
        programs_per_core: That run at once on a multiprocessor.
    """

    rows: int
    keys: int
    num_warps: int
    num_stages: int
    programs_per_core: int


def tiling(num_rows: float, group: int, head_dim: int, dtype: torch.dtype) -> Tiling:
    """By how many queries a chunk has, on average.

    Few rows are bound by memory, so that many programs with many loads in flight are best; many by products, so that
    tiles are as large as registers allow.
    """
    wanted = max(MIN_ROWS, 1 << math.ceil(math.log2(max(num_rows * group, group))))
    if dtype == torch.float32:  # no tensor cores, and twice the registers
        return Tiling(max(min(wanted, 32), 1 << math.ceil(math.log2(group))), 32, 4, 2, 2)
    is_wide = head_dim > 128
    if wanted == MIN_ROWS:
        return Tiling(wanted, 32 if is_wide else 64, 4, 2 if is_wide else 3, 2)
    if is_wide or wanted <= 64:  # few sizes: each is compiled
        return Tiling(64, 32 if is_wide else 64, 8, 2 if is_wide else 3, 1)
    return Tiling(128, 64, 8, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """A step's numbers where the kernels read them: views of one int32 tensor."""

    query_start: Tensor  # [num_chunks + 1]
    num_context: Tensor  # [num_chunks]
    is_tree: Tensor  # [num_chunks]
    tables: Tensor  # [blocks of all chunks]
    table_start: Tensor  # [num_chunks]: where each one's begin
    num_tokens: int
    usual_chunk: float | None = None  # new tokens of a chunk, by which tiles are chosen; None: as many as on average
    positions: Tensor | None = None  # [T] int64, with trees alone
    seen: Mapping[int | None, Tensor] | None = None  # by window, as `PagedMeta.seen_rows`; None: not there yet


class Plan(NamedTuple):
    """What `kernels.ragged.plan` made of a step for one kind of layer."""

    units: Tensor
    tiles: Tensor
    firsts: Tensor
    max_tiles: int
    tiling: Tiling


class RaggedAttention:
    """Implements `workers.model.attention.PagedAttention`. Not thread-safe; of one stream.

    Args:
        num_programs: That a launch has; None: as many as the device runs at once.
        partials: Memory that it shares with others of its stream.
    """

    def __init__(
        self, device: torch.device, *, num_programs: int | None = None, partials: Partials | None = None
    ) -> None:
        self.device = device
        self._num_programs = num_programs
        self._cores = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0
        self._meta: PagedMeta | None = None
        self._step: OnDevice | None = None
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._seen: dict[int | None, Tensor] = {}
        self._partial: Partials = {} if partials is None else partials

    def begin(self, meta: PagedMeta, step: OnDevice | None = None) -> None:
        """Names the next step's batch. `step`: its numbers, where they are on the device already."""
        self._meta = meta
        self._step = step or put(meta, self.device)
        self._plans.clear()
        self._seen.clear()

    def __call__(
        self,
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor:
        """See `workers.model.attention`."""
        from workers.model.cuda.kernels import ragged as kernels

        if meta is not self._meta:
            self.begin(meta)
        step = self._step
        assert step is not None
        num_heads, head_dim = query.shape[1:]
        num_kv_heads = k_cache.shape[2]
        group = num_heads // num_kv_heads
        query = query if query.stride()[1:] == (head_dim, 1) else query.contiguous()
        assert k_cache.stride() == v_cache.stride(), "keys and values lie alike"
        assert k_cache.stride()[2:] == (head_dim, 1), "heads of a token lie side by side"
        plan = self._plan(group, num_kv_heads, head_dim, query.dtype, scoring.window)
        rows, block_n = plan.tiling.rows, plan.tiling.keys
        dim = max(16, power_of_2(head_dim))
        num_programs = len(plan.firsts)
        sums, stats = self._partials(num_programs, rows, dim)
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        nothing = plan.firsts  # a pointer that is not read
        has_trees = bool(meta.trees) or step.seen is not None
        common = {"GROUP": group, "HEAD_DIM": head_dim, "DIM": dim, "BLOCK_M": rows}
        kernels.attend[(num_programs,)](
            query,
            output,
            k_cache,
            v_cache,
            step.tables,
            step.table_start,
            self._seen_rows(scoring.window) if has_trees else nothing,
            step.positions if step.positions is not None else nothing,
            scales.key if scales else nothing,
            scales.value if scales else nothing,
            scoring.sinks if scoring.sinks is not None else nothing,
            plan.units,
            plan.tiles,
            plan.firsts,
            sums,
            stats,
            plan.max_tiles,
            num_kv_heads,
            scoring.scale,
            scoring.softcap or 0.0,
            scoring.window or 0,
            query.stride(0),
            output.stride(0),
            k_cache.stride(0),
            k_cache.stride(1),
            **common,
            BLOCK_N=block_n,
            BLOCK_SIZE=k_cache.shape[1],
            HAS_CAP=scoring.softcap is not None,
            HAS_WINDOW=scoring.window is not None,
            HAS_TREES=has_trees,
            HAS_SCALES=scales is not None,
            HAS_SINKS=scoring.sinks is not None,
            PRECISION="ieee",
            num_warps=plan.tiling.num_warps,
            num_stages=plan.tiling.num_stages,
        )
        kernels.merge[(plan.max_tiles, num_kv_heads)](
            output,
            scoring.sinks if scoring.sinks is not None else nothing,
            plan.units,
            plan.tiles,
            sums,
            stats,
            plan.max_tiles,
            num_kv_heads,
            num_programs,
            output.stride(0),
            **common,
            HAS_SINKS=scoring.sinks is not None,
        )
        return output

    def _plan(self, group: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, window: int | None) -> Plan:
        from workers.model.cuda.kernels import ragged as kernels

        key = (group, num_kv_heads, head_dim, dtype, window)
        if key in self._plans:
            return self._plans[key]
        step = self._step
        assert step is not None
        num_chunks = len(step.num_context)
        chosen = tiling(step.usual_chunk or step.num_tokens / num_chunks, group, head_dim, dtype)
        if chosen.rows < group:
            raise ValueError(f"{group} heads share a KV head, which tiles of {chosen.rows} rows cannot hold")
        block_q = chosen.rows // group
        max_tiles = step.num_tokens // block_q + num_chunks
        num_programs = self._num_programs or self._fill(chosen)
        found = Plan(
            units=self._ints(max_tiles + 1),
            tiles=self._ints(max_tiles * int(kernels.RECORD.value)),
            firsts=self._ints(num_programs),
            max_tiles=max_tiles,
            tiling=chosen,
        )
        kernels.plan[(1,)](
            step.query_start,
            step.num_context,
            step.is_tree,
            found.units,
            found.tiles,
            found.firsts,
            num_chunks,
            max_tiles,
            num_programs,
            num_kv_heads,
            window or 0,
            max(max_tiles, num_chunks).bit_length() + 1,
            BLOCK_Q=block_q,
            BLOCK_N=chosen.keys,
            TILES=TILES,
        )
        self._plans[key] = found
        return found

    def _fill(self, chosen: Tiling) -> int:
        return self._cores * chosen.programs_per_core or NUM_INTERPRETED

    def _partials(self, num_programs: int, rows: int, dim: int) -> tuple[Tensor, Tensor]:
        key = (num_programs, rows, dim)
        if key not in self._partial:
            sums = torch.empty(2 * num_programs * rows * dim, dtype=torch.float32, device=self.device)
            stats = torch.empty(2 * num_programs * 2 * rows, dtype=torch.float32, device=self.device)
            self._partial[key] = (sums, stats)
        return self._partial[key]

    def _seen_rows(self, window: int | None) -> Tensor:
        assert self._step is not None
        if self._step.seen is not None:
            return self._step.seen[window]
        if window not in self._seen:
            assert self._meta is not None
            rows = self._meta.seen_rows(window)
            assert rows is not None
            self._seen[window] = to_device(rows, self.device)
        return self._seen[window]

    def _ints(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32, device=self.device)


def put(meta: PagedMeta, device: torch.device) -> OnDevice:
    """In one copy; one more where a chunk is a tree."""
    num_chunks = meta.num_chunks
    is_tree = torch.zeros(num_chunks, dtype=torch.int32)
    is_tree[list(meta.trees)] = 1
    table_start, tables = side_by_side(meta)
    parts = [meta.query_start, meta.num_context, is_tree, torch.from_numpy(table_start), torch.from_numpy(tables)]
    there = torch.split(to_device(torch.cat(parts), device), [len(part) for part in parts])
    return OnDevice(
        query_start=there[0],
        num_context=there[1],
        is_tree=there[2],
        table_start=there[3],
        tables=there[4],
        num_tokens=meta.num_tokens,
        positions=to_device(meta.positions, device) if meta.trees else None,
    )
