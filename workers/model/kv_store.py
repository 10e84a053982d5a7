"""The KV blocks of one worker in torch memory, one tensor per layer; and beside them slots for the states of layers of
linear attention, one tensor per part.

Invariant: the tensors are made once and never move, so that views, CUDA graphs and registered memory stay valid.
Which block or slot belongs to whom is the business of `workers.engine`.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baton.errors import ConfigError
from workers.model import fp8, shared_memory
from workers.model.contract import Unit
from workers.model.cpu import kv_copy
from workers.model.cuda.blocks import Piece, gather, scatter
from workers.model.kv_rows import HeldHeads, KVRows, lay_out
from workers.model.places import PLAIN, Place
from workers.model.shared_memory import SharedMemory
from workers.model.state_shape import StatePart, StateShape

logger = logging.getLogger(__name__)
PLANES = 2  # keys and values
MAX_MOVED_BYTES = 64 << 20  # that copies within the store hold at once beside it


@dataclass(frozen=True, slots=True)
class LayerShape:
    num_kv_heads: int
    head_dim: int

    def token_nbytes(self, dtype: torch.dtype) -> int:
        """Of key and value together."""
        return 2 * self.num_kv_heads * self.head_dim * dtype.itemsize


Shape = LayerShape | StateShape  # of a layer that attends, or of one of linear attention


class TorchKVStore(KVRows):
    """What `KVRows` reads and writes, with the memory for it.

    Of a layer that attends one payload, of tokens; of a layer of linear attention one for each part of its state.

    Args:
        shapes: Of what this rank holds.
        place: The rank's, whose store this is.
        whole: Of what all ranks of the gang hold together; None: this one holds all.
        num_states: Slots for states.
        dtype: Of keys and values; `layers` hold bytes where it is FP8.
        names: Of each layer, what its layout says of the elements; empty, or none at all: the dtype's name.
    Attributes:
        layers: Of the layers that attend, in order: [2, num_blocks, block_size, num_kv_heads, head_dim].
        states: Of the other layers, in order, their parts: [num_states, heads, ...] each.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        place: Place = PLAIN,
        whole: Sequence[Shape] | None = None,
        num_states: int = 0,
        names: Sequence[str] = (),
    ) -> None:
        self.shapes = tuple(shapes)
        self.dtype = dtype
        stored = torch.uint8 if dtype == fp8.DTYPE else dtype
        told = [name or str(dtype).removeprefix("torch.") for name in names or [""] * len(self.shapes)]
        pools: list[_Pool] = []
        for layer, (shape, all_of_it) in enumerate(zip(self.shapes, whole or self.shapes, strict=True)):
            if isinstance(shape, StateShape):
                assert isinstance(all_of_it, StateShape), f"layer {layer} keeps a state on this rank alone"
                parts = zip(shape.parts, all_of_it.parts, strict=True)
                pools += [_state_pool(layer, part, there.num_heads, place, num_states) for part, there in parts]
            else:
                assert isinstance(all_of_it, LayerShape), f"layer {layer} keeps KV on this rank alone"
                held = _held(layer, shape, all_of_it.num_kv_heads, block_size, stored, told[layer], place)
                pools.append(_Pool(held, (PLANES, num_blocks, block_size, shape.num_kv_heads, shape.head_dim), stored))
        has_kernel = device.type == "cpu" and kv_copy.available()
        caches, nbytes = lay_out([pool.held for pool in pools], num_blocks, num_states, 0)
        memory = _share(nbytes) if has_kernel and shared_memory.is_available() else None
        tensors = [
            torch.zeros(pool.sizes, dtype=pool.dtype, device=device)
            if memory is None
            else torch.frombuffer(
                memory.view, dtype=pool.dtype, count=math.prod(pool.sizes), offset=cache.address
            ).view(pool.sizes)
            for pool, cache in zip(pools, caches, strict=True)
        ]
        self.layers = [tensor for tensor, pool in zip(tensors, pools, strict=True) if pool.held.unit is Unit.TOKEN]
        self.states = _by_layer(pools, tensors)
        super().__init__(
            [pool.held for pool in pools],
            [
                tensor.view(pool.held.planes, -1, len(pool.held.held) * pool.held.head_nbytes // pool.dtype.itemsize)
                for pool, tensor in zip(pools, tensors, strict=True)
            ],
            num_blocks=num_blocks,
            num_states=num_states,
            block_size=block_size,
            has_kernel=has_kernel,
            memory=memory,
        )

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies every source before any target is written."""
        if self._has_mover:
            self._move([(layer.flatten(3).flatten(1, 2), self.block_size) for layer in self.layers], pairs)
            return
        source, target = self._both(pairs)
        for layer in self.layers:
            layer.index_copy_(1, target, layer.index_select(1, source))

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The same of single tokens: block x block size + offset."""
        if self._has_mover:
            self._move([(layer.flatten(3).flatten(1, 2), 1) for layer in self.layers], pairs)
            return
        source, target = self._both(pairs)
        for layer in self.layers:
            tokens = layer.flatten(1, 2)  # a view
            tokens.index_copy_(1, target, tokens.index_select(1, source))

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The same of slots: (source, target)."""
        if self._has_mover:
            self._move([(part.flatten(1)[None], 1) for parts in self.states for part in parts], pairs)
            return
        source, target = self._both(pairs)
        for parts in self.states:
            for part in parts:
                part.index_copy_(0, target, part.index_select(0, source))

    def _both(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        source = torch.tensor([s for s, _ in pairs], device=self.device)
        return source, torch.tensor([t for _, t in pairs], device=self.device)

    def _move(self, rows: Sequence[tuple[Tensor, int]], pairs: Sequence[tuple[int, int]]) -> None:
        """By two launches for as many layers as `MAX_MOVED_BYTES` hold.

        Args:
            rows: [planes, blocks * units, width] and the units of a block, of each.
        """
        sources, targets = [s for s, _ in pairs], [t for _, t in pairs]
        sizes = [one.shape[0] * len(pairs) * units * one[0, 0].nbytes for one, units in rows]
        begin = 0
        while begin < len(rows):
            end = begin + 1
            while end < len(rows) and sum(sizes[begin : end + 1]) <= MAX_MOVED_BYTES:
                end += 1
            flats = torch.split(self.empty_payload(sum(sizes[begin:end])), sizes[begin:end])
            together = list(zip(rows[begin:end], flats, strict=True))
            for ids, move in ((sources, gather), (targets, scatter)):
                move([Piece(one, units, ids, 0, len(ids) * units, flat) for (one, units), flat in together])
            begin = end


@dataclass(frozen=True, slots=True)
class _Pool:
    """One payload's memory."""

    held: HeldHeads
    sizes: tuple[int, ...]
    dtype: torch.dtype


def _held(
    layer: int, shape: LayerShape, num_heads: int, block_size: int, dtype: torch.dtype, name: str, place: Place
) -> HeldHeads:
    heads = _heads_of(layer, place, num_heads, shape.num_kv_heads)
    return HeldHeads(
        layer=layer,
        num_heads=num_heads,
        held=heads,
        shown=heads,
        head_nbytes=shape.head_dim * dtype.itemsize,
        planes=PLANES,
        block_units=block_size,
        layout=f"kv/heads={{heads}}/dim={shape.head_dim}/{name}",
    )


def _heads_of(layer: int, place: Place, num_heads: int, num_held: int) -> range:
    heads = place.heads(num_heads)
    assert len(heads) == num_held, f"layer {layer}: {place} holds {heads}, not {num_held} heads"
    return heads


def _share(nbytes: int) -> SharedMemory | None:
    """Memory for all layers; None where the system gives none (it is anonymous memory all the same)."""
    try:
        return SharedMemory(nbytes)
    except OSError as error:
        logger.warning("KV cannot be shared with workers beside this one error=%s", error)
        return None


def _state_pool(layer: int, part: StatePart, num_heads: int, place: Place, num_states: int) -> _Pool:
    heads = _heads_of(layer, place, num_heads, part.num_heads)
    held = HeldHeads(
        layer=layer,
        unit=Unit.STATE,
        num_heads=num_heads,
        held=heads,
        shown=heads,
        head_nbytes=part.nbytes // part.num_heads,
        planes=1,
        block_units=1,
        layout=part.layout,
    )
    return _Pool(held, (num_states, part.num_heads, *part.shape), part.dtype)


def _by_layer(pools: Sequence[_Pool], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The parts of states, layer by layer."""
    found: dict[int, list[Tensor]] = {}
    for pool, tensor in zip(pools, tensors, strict=True):
        if pool.held.unit is Unit.STATE:
            found.setdefault(pool.held.layer, []).append(tensor)
    return list(found.values())


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
