"""Reads and writes KV blocks and state slots: all heads that a rank holds, or those of them that one link moves.

No memory is made here: the tensors are `workers.model.kv_store`'s, and every `KVRows` over them keeps them alive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from workers.model.contract import PayloadSpec, Unit, Units
from workers.model.cpu import kv_copy
from workers.model.cuda import blocks
from workers.model.places import EVERY_BLOCK, PLAIN, HeadsOf, Place, Turn
from workers.model.shared_memory import SharedMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldHeads:
    """What a rank holds of one payload: some of the `num_heads` heads that the whole model has there.

    Attributes:
        held: Those that lie in the rank's rows, one after the other.
        shown: Those of them that are read and written.
        head_nbytes: Of one unit, in one plane.
        planes: In which a unit lies apart: two of tokens (keys and values), one of states.
        block_units: Tokens of a block; of states 1: a slot is a block of one.
        layout: As `PayloadSpec.layout`, with {heads} where they are named.
        turn: Which of a sequence's blocks are shown.
    """

    layer: int
    unit: Unit = Unit.TOKEN
    num_heads: int
    held: range
    shown: range
    head_nbytes: int
    planes: int
    block_units: int
    layout: str
    turn: Turn = EVERY_BLOCK

    @property
    def payload(self) -> PayloadSpec:
        heads = f"{len(self.shown)}"
        if len(self.shown) < self.num_heads:
            heads = f"{self.shown.start}-{self.shown.stop - 1}of{self.num_heads}"
        return PayloadSpec(
            layer=self.layer,
            unit=self.unit,
            unit_nbytes=self.planes * len(self.shown) * self.head_nbytes,
            layout=self.layout.format(heads=heads),
            turn=self.turn,
            block_size=self.block_units,
        )

    def part(self, heads: HeadsOf, turn: Turn) -> "HeldHeads":
        if self.unit is Unit.TOKEN:
            return replace(self, shown=_both(self.held, heads(self.num_heads)), turn=turn)
        return replace(self, shown=_both(self.held, heads(self.num_heads)) if turn.has_states else range(0))

    @property
    def block_nbytes(self) -> int:
        """Of one plane."""
        return self.block_units * len(self.held) * self.head_nbytes

    def columns(self, itemsize: int) -> slice:
        """Which of a row's elements are shown."""
        width = self.head_nbytes // itemsize
        first = self.shown.start - self.held.start
        return slice(first * width, (first + len(self.shown)) * width)

    def shown_in(self, cache: kv_copy.Cache) -> kv_copy.Cache:
        skip = (self.shown.start - self.held.start) * self.head_nbytes
        return cache.part(skip, len(self.shown) * self.head_nbytes, self.block_units)


def lay_out(
    held: Sequence[HeldHeads], num_blocks: int, num_states: int, address: int
) -> tuple[list[kv_copy.Cache], int]:
    """Where the rows of a rank that holds these lie from `address` on; and how many bytes they take."""
    counts = [num_blocks if one.unit is Unit.TOKEN else num_states for one in held]
    sizes = [(one.block_nbytes, one.planes, count) for one, count in zip(held, counts, strict=True)]
    return kv_copy.lay_out(sizes, address)


class KVRows:
    """Implements `workers.model.contract.SharedKVStore`. Of tokens: K of a range, then V.

    Reads and writes run on the caller's current stream of the rows' device. On a GPU with Triton, all that is read or
    written at once is copied by one kernel.

    Args:
        held: Of all that the rank has, in the order in which it lies in `memory`.
        rows: Of each, [planes, blocks or slots * block_units, held heads * width].
        memory: Where the rows lie, if others can read it.
    """

    def __init__(
        self,
        held: Sequence[HeldHeads],
        rows: Sequence[Tensor],
        *,
        num_blocks: int,
        num_states: int,
        block_size: int,
        has_kernel: bool,
        memory: SharedMemory | None,
    ) -> None:
        self.num_blocks, self.num_states = num_blocks, num_states
        self.block_size = block_size
        self.memory = memory
        self.device = rows[0].device
        self._has_kernel = has_kernel
        self._has_mover = blocks.works(self.device)
        self._all = tuple(zip(held, rows, strict=True))
        shown = [(one, row) for one, row in self._all if one.shown]
        self.payloads = tuple(one.payload for one, _ in shown)
        self._block_units = [one.block_units for one, _ in shown]
        self._rows = [row[:, :, one.columns(row.dtype.itemsize)] for one, row in shown]
        self._caches = [one.shown_in(_cache(one, row)) for one, row in shown]

    @property
    def head_counts(self) -> frozenset[int]:
        return frozenset(one.num_heads for one, _ in self._all)

    def part(self, heads: HeadsOf, turn: Turn = EVERY_BLOCK) -> "KVRows":
        return KVRows(
            [one.part(heads, turn) for one, _ in self._all],
            [row for _, row in self._all],
            num_blocks=self.num_blocks,
            num_states=self.num_states,
            block_size=self.block_size,
            has_kernel=self._has_kernel,
            memory=self.memory,
        )

    def read(
        self, index: int, block_ids: Sequence[int], start: int, end: int, out: Tensor | memoryview | None = None
    ) -> Tensor | memoryview:
        if out is None:
            out = self.empty_payload(self.payloads[index].unit_nbytes * (end - start))
        self._check_size(index, start, end, len(out))
        if self._is_here(out):
            blocks.gather([self._piece(index, block_ids, start, end, out)])
            return out
        if self._has_kernel:
            units = self._block_units[index]
            kv_copy.copy_flat(self._caches[index], units, block_ids, start, end, out, to_blocks=False)
            return out
        rows, slots = self._rows[index], self._slots(index, block_ids, start, end)
        found = rows[:, slots] if isinstance(slots, slice) else rows.index_select(1, slots)
        flat = found.contiguous().view(-1).view(torch.uint8)
        (out if isinstance(out, Tensor) else torch.frombuffer(out, dtype=torch.uint8)).copy_(flat)
        return out

    def write(
        self, index: int, block_ids: Sequence[int], start: int, end: int, payload: Tensor | bytes | kv_copy.ForeignRange
    ) -> None:
        if isinstance(payload, kv_copy.ForeignRange):
            kv_copy.copy_blocks(payload, self._caches[index], self._block_units[index], block_ids, start, end)
            return
        self._check_size(index, start, end, len(payload))
        if self._is_here(payload):
            blocks.scatter([self._piece(index, block_ids, start, end, payload)])
            return
        if self._has_kernel:
            units = self._block_units[index]
            kv_copy.copy_flat(self._caches[index], units, block_ids, start, end, payload, to_blocks=True)
            return
        if not isinstance(payload, Tensor):
            payload = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        rows, slots = self._rows[index], self._slots(index, block_ids, start, end)
        if payload.storage_offset() % rows.dtype.itemsize:
            payload = payload.clone()
        values = payload.view(rows.dtype).view(rows.shape[0], end - start, rows.shape[2]).to(self.device)
        if isinstance(slots, slice):
            rows[:, slots] = values
        else:
            rows.index_copy_(1, slots, values)

    def read_all(self, units: Sequence[Units], outs: Sequence[Tensor | memoryview]) -> None:
        if all(map(self._is_here, outs)):
            blocks.gather(self._pieces(units, outs))
            return
        for one, out in zip(units, outs, strict=True):
            self.read(one.index, one.block_ids, one.start, one.end, out)

    def write_all(self, units: Sequence[Units], payloads: Sequence[Tensor | bytes | kv_copy.ForeignRange]) -> None:
        if all(map(self._is_here, payloads)):
            blocks.scatter(self._pieces(units, payloads))
            return
        for one, payload in zip(units, payloads, strict=True):
            self.write(one.index, one.block_ids, one.start, one.end, payload)

    def empty_payload(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def foreign_caches(
        self, view: memoryview | None, num_blocks: int, num_states: int, place: Place = PLAIN
    ) -> tuple[list[kv_copy.Cache], int]:
        """How what is shown here lies in the `memory` of a rank at `place` of a gang with the same model.

        Args:
            view: That memory, mapped here; None: only to learn how many bytes of it there are.
            num_blocks, num_states: That it has.
        """
        address = np.frombuffer(view, dtype=np.uint8).ctypes.data if view is not None else 0
        theirs = [replace(one, held=place.heads(one.num_heads)) for one, _ in self._all]
        caches, nbytes = lay_out(theirs, num_blocks, num_states, address)
        return [one.shown_in(cache) for one, cache in zip(theirs, caches, strict=True) if one.shown], nbytes

    def _is_here(self, payload: Any) -> TypeGuard[Tensor]:
        """Whether one kernel copies it."""
        return self._has_mover and isinstance(payload, Tensor) and payload.device == self.device

    def _pieces(self, units: Sequence[Units], payloads: Sequence[Any]) -> list[blocks.Piece]:
        for one, payload in zip(units, payloads, strict=True):
            self._check_size(one.index, one.start, one.end, len(payload))
        together = zip(units, payloads, strict=True)
        return [self._piece(one.index, one.block_ids, one.start, one.end, payload) for one, payload in together]

    def _piece(self, index: int, block_ids: Sequence[int], start: int, end: int, flat: Tensor) -> blocks.Piece:
        return blocks.Piece(self._rows[index], self._block_units[index], block_ids, start, end, flat)

    def _check_size(self, index: int, start: int, end: int, nbytes: int) -> None:
        spec = self.payloads[index]
        needed = spec.unit_nbytes * (end - start)
        if nbytes != needed or end <= start:
            raise ValueError(f"payload has {nbytes} bytes; {spec.name}, [{start}, {end}) takes {needed}")

    def _slots(self, index: int, block_ids: Sequence[int], start: int, end: int) -> slice | Tensor:
        """Rows of units [start, end): a slice when their blocks lie one after the other."""
        size = self._block_units[index]
        first = start // size
        used = block_ids[first : -(-end // size)]
        offset = start - first * size
        if all(b == used[0] + i for i, b in enumerate(used)):
            head = used[0] * size + offset if used else 0
            return slice(head, head + end - start)
        rows = torch.tensor(used)[:, None] * size + torch.arange(size)  # [len(used), size]
        return rows.view(-1)[offset : offset + end - start].to(self.device)


def _cache(held: HeldHeads, row: Tensor) -> kv_copy.Cache:
    return kv_copy.Cache(row.data_ptr(), held.planes, row.shape[1] // held.block_units, held.block_nbytes)


def _both(a: range, b: range) -> range:
    return range(max(a.start, b.start), max(max(a.start, b.start), min(a.stop, b.stop)))
