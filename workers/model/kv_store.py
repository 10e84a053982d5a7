"""The KV blocks of one worker in torch memory, one tensor per layer.

Invariant: the tensors are made once and never move, so that views, CUDA graphs and registered memory stay valid.
Which block belongs to whom is the business of `workers.engine`.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from baton.errors import ConfigError
from workers.model import shared_memory
from workers.model.contract import PayloadSpec
from workers.model.cpu import kv_copy
from workers.model.shared_memory import SharedMemory

logger = logging.getLogger(__name__)
PLANES = 2  # keys and values


@dataclass(frozen=True, slots=True)
class LayerShape:
    num_kv_heads: int
    head_dim: int

    def token_nbytes(self, dtype: torch.dtype) -> int:
        """Of key and value together."""
        return 2 * self.num_kv_heads * self.head_dim * dtype.itemsize


def _payload(layer: int, shape: LayerShape, dtype: torch.dtype) -> PayloadSpec:
    name = str(dtype).removeprefix("torch.")
    layout = f"kv/heads={shape.num_kv_heads}/dim={shape.head_dim}/{name}"
    return PayloadSpec(layer=layer, unit_nbytes=shape.token_nbytes(dtype), layout=layout)


class TorchKVStore:
    """Implements `workers.model.contract.KVStore`: one payload per layer, of tokens; K of the range, then V.

    Reads and writes run on the caller's current stream of the store's device.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.shapes = tuple(shapes)
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.device = device
        self.payloads = tuple(_payload(layer, shape, dtype) for layer, shape in enumerate(self.shapes))
        self._has_kernel = device.type == "cpu" and kv_copy.available()
        self.memory = self._share() if self._has_kernel and shared_memory.is_available() else None
        # each: [2, num_blocks, block_size, num_kv_heads, head_dim]
        self.layers = [
            torch.zeros(self._layer_shape(layer), dtype=dtype, device=device)
            if self.memory is None
            else self._mapped(layer, self.memory)
            for layer in range(len(self.shapes))
        ]
        self._caches = [
            kv_copy.Cache(cache.data_ptr(), PLANES, num_blocks, self._block_nbytes(layer))
            for layer, cache in enumerate(self.layers)
        ]
        self._rows = [layer.view(2, num_blocks * block_size, -1) for layer in self.layers]

    def read(
        self, index: int, block_ids: Sequence[int], start: int, end: int, out: Tensor | memoryview | None = None
    ) -> Tensor | memoryview:
        if out is None:
            out = self.empty_payload(self.payloads[index].unit_nbytes * (end - start))
        self._check_size(index, start, end, len(out))
        if self._has_kernel:
            kv_copy.copy_flat(self._caches[index], self.block_size, block_ids, start, end, out, to_blocks=False)
            return out
        rows, slots = self._rows[index], self._slots(block_ids, start, end)
        found = rows[:, slots] if isinstance(slots, slice) else rows.index_select(1, slots)
        flat = found.contiguous().view(-1).view(torch.uint8)
        (out if isinstance(out, Tensor) else torch.frombuffer(out, dtype=torch.uint8)).copy_(flat)
        return out

    def write(
        self, index: int, block_ids: Sequence[int], start: int, end: int, payload: Tensor | bytes | kv_copy.ForeignRange
    ) -> None:
        if isinstance(payload, kv_copy.ForeignRange):
            kv_copy.copy_blocks(payload, self._caches[index], self.block_size, block_ids, start, end)
            return
        self._check_size(index, start, end, len(payload))
        if self._has_kernel:
            kv_copy.copy_flat(self._caches[index], self.block_size, block_ids, start, end, payload, to_blocks=True)
            return
        if not isinstance(payload, Tensor):
            payload = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        if payload.storage_offset() % self.dtype.itemsize:
            payload = payload.clone()
        rows, slots = self._rows[index], self._slots(block_ids, start, end)
        values = payload.view(self.dtype).view(2, end - start, rows.shape[2]).to(self.device)
        if isinstance(slots, slice):
            rows[:, slots] = values
        else:
            rows.index_copy_(1, slots, values)

    def foreign_caches(self, view: memoryview | None, num_blocks: int) -> tuple[list[kv_copy.Cache], int]:
        """How the layers of another worker with the same payloads and `num_blocks` blocks lie in its `memory`.

        Args:
            view: That memory, mapped here; None: only to learn how many bytes of it there are.
        """
        address = np.frombuffer(view, dtype=np.uint8).ctypes.data if view is not None else 0
        block_nbytes = [self._block_nbytes(layer) for layer in range(len(self.shapes))]
        return kv_copy.lay_out(block_nbytes, PLANES, num_blocks, address)

    def _share(self) -> SharedMemory | None:
        """Memory for all layers; None where the system gives none (it is anonymous memory all the same)."""
        try:
            return SharedMemory(self.foreign_caches(None, self.num_blocks)[1])
        except OSError as error:
            logger.warning("KV cannot be shared with workers beside this one error=%s", error)
            return None

    def _mapped(self, layer: int, memory: SharedMemory) -> Tensor:
        shape = self._layer_shape(layer)
        at = self.foreign_caches(None, self.num_blocks)[0][layer].address
        return torch.frombuffer(memory.view, dtype=self.dtype, count=math.prod(shape), offset=at).view(shape)

    def _layer_shape(self, layer: int) -> tuple[int, ...]:
        shape = self.shapes[layer]
        return PLANES, self.num_blocks, self.block_size, shape.num_kv_heads, shape.head_dim

    def _block_nbytes(self, layer: int) -> int:
        """Of one plane."""
        return self.payloads[layer].unit_nbytes * self.block_size // PLANES

    def _check_size(self, layer: int, start: int, end: int, nbytes: int) -> None:
        needed = self.payloads[layer].unit_nbytes * (end - start)
        if nbytes != needed or end <= start:
            raise ValueError(f"payload has {nbytes} bytes; layer {layer}, [{start}, {end}) takes {needed}")

    def empty_payload(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies every source before any target is written."""
        source = torch.tensor([s for s, _ in pairs], device=self.device)
        target = torch.tensor([t for _, t in pairs], device=self.device)
        for layer in self.layers:
            layer.index_copy_(1, target, layer.index_select(1, source))

    def _slots(self, block_ids: Sequence[int], start: int, end: int) -> slice | Tensor:
        """Rows of tokens [start, end): a slice when their blocks lie one after the other."""
        size = self.block_size
        first = start // size
        used = block_ids[first : -(-end // size)]
        offset = start - first * size
        if all(b == used[0] + i for i, b in enumerate(used)):
            head = used[0] * size + offset if used else 0
            return slice(head, head + end - start)
        rows = torch.tensor(used)[:, None] * size + torch.arange(size)  # [len(used), size]
        return rows.view(-1)[offset : offset + end - start].to(self.device)


def count_blocks(
    shapes: Sequence[LayerShape],
    *,
    block_size: int,
    dtype: torch.dtype,
    memory_bytes: int,
    max_model_len: int | None,
) -> int:
    """How many blocks `memory_bytes` holds.

    Raises:
        ConfigError: Fewer than one, or than one sequence of an explicit `max_model_len` needs.
    """
    block_nbytes = block_size * sum(shape.token_nbytes(dtype) for shape in shapes)
    num_blocks = memory_bytes // block_nbytes
    needed = -(-max_model_len // block_size) if max_model_len is not None else 1
    if num_blocks < needed:
        wanted = f"max_model_len {max_model_len}" if max_model_len is not None else "one block"
        raise ConfigError(
            f"engine.memory: {memory_bytes} bytes hold {num_blocks} KV blocks of {block_nbytes} bytes, {wanted} takes "
            f"{needed} ({needed * block_nbytes} bytes); raise engine.memory or lower engine.max_model_len"
        )
    return num_blocks
