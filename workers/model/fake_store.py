"""KV blocks of the fake model: each token leaves in every layer what it is and where it stands.

So a block that was lost, overwritten, left stale or put in the wrong place is seen when it is read. No torch.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from workers.model.contract import PayloadSpec, Units
from workers.model.places import EVERY_BLOCK, HeadsOf, Turn

TOKEN_NBYTES = 8  # per layer: token id (24 bits), position (24 bits), layer + 1; 0 where nothing was written
POSITION_SHIFT = 24
LAYER_SHIFT = 56
FIELD_MASK = (1 << 24) - 1


class KVMismatchError(AssertionError):
    """The blocks of a sequence do not hold its tokens: a bug of the engine's or of a link's."""


class FakeStore:
    """A KVStore whose payloads are `bytes`. Different blocks may be read and written on several threads."""

    def __init__(self, *, num_layers: int, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.payloads = tuple(
            PayloadSpec(layer=layer, unit_nbytes=TOKEN_NBYTES, layout=f"fake/bytes={TOKEN_NBYTES}")
            for layer in range(num_layers)
        )
        self._kv = np.zeros((num_layers, num_blocks, block_size), dtype=np.int64)
        self._layers = (np.arange(num_layers, dtype=np.int64)[:, None] + 1) << LAYER_SHIFT  # [num_layers, 1]

    @property
    def head_counts(self) -> frozenset[int]:
        """One that every rank of a gang holds."""
        return frozenset({1})

    def part(self, heads: HeadsOf, turn: Turn = EVERY_BLOCK) -> "FakeStore":
        part = copy.copy(self)
        shown = self.payloads if heads(1) else ()
        part.payloads = tuple(replace(spec, turn=turn, block_size=self.block_size) for spec in shown)
        return part

    def read(self, index: int, block_ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
        found = self._kv[index][self._slots(block_ids, start, end)].tobytes()
        if out is None:
            return found
        out[:] = found
        return out

    def write(self, index: int, block_ids: Sequence[int], start: int, end: int, payload: Any) -> None:
        self._kv[index][self._slots(block_ids, start, end)] = np.frombuffer(payload, dtype=np.int64)

    def read_all(self, units: Sequence[Units], outs: Sequence[Any]) -> None:
        for one, out in zip(units, outs, strict=True):
            self.read(one.index, one.block_ids, one.start, one.end, out)

    def write_all(self, units: Sequence[Units], payloads: Sequence[Any]) -> None:
        for one, payload in zip(units, payloads, strict=True):
            self.write(one.index, one.block_ids, one.start, one.end, payload)

    def empty_payload(self, nbytes: int) -> memoryview:
        return memoryview(bytearray(nbytes))

    def compute(
        self,
        layer: int,
        block_ids: Sequence[int],
        start: int,
        token_ids: Sequence[int],
        positions: Sequence[int] | None = None,
    ) -> None:
        """Writes one layer of `token_ids` from `start` on; `positions`: what they say, if it is another."""
        end = start + len(token_ids)
        entries = _entries(token_ids, range(start, end) if positions is None else positions) | self._layers[layer]
        self._kv[layer][self._slots(block_ids, start, end)] = entries

    def copy(self, source: int, target: int) -> None:
        self._kv[:, target] = self._kv[:, source]

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `ModelRunner.copy_tokens`."""
        tokens = self._kv.reshape(len(self._kv), -1)
        tokens[:, [target for _, target in pairs]] = tokens[:, [source for source, _ in pairs]]

    def verify(
        self, block_ids: Sequence[int], token_ids: Sequence[int], positions: Sequence[int] | None = None
    ) -> None:
        """Reads every layer of the sequence back.

        Args:
            positions: What the tokens should say; None: that they stand one after the other.
        Raises:
            KVMismatchError: At the first token that is not where it should be.
        """
        num_tokens = len(token_ids)
        blocks = np.array(block_ids[: -(-num_tokens // self.block_size)], dtype=np.int64)
        found = self._kv[:, blocks].reshape(len(self._kv), -1)[:, :num_tokens]
        expected = _entries(token_ids, range(num_tokens) if positions is None else positions) | self._layers
        if not np.array_equal(found, expected):
            layer, position = (int(index) for index in np.argwhere(found != expected)[0])
            entry = int(found[layer, position])
            raise KVMismatchError(
                f"layer {layer} position {position} (block {blocks[position // self.block_size]}): expected token "
                f"{token_ids[position]}, found {_describe(entry)}"
            )

    def _slots(self, block_ids: Sequence[int], start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(block, offset in it) of positions [start, end)."""
        first, last = start // self.block_size, -(-end // self.block_size)
        assert last <= len(block_ids), f"{len(block_ids)} blocks of {self.block_size} do not hold {end} tokens"
        positions = np.arange(start, end)
        blocks = np.array(block_ids[first:last], dtype=np.int64)
        return blocks[positions // self.block_size - first], positions % self.block_size


def _entries(token_ids: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """[num_tokens]: token ids and positions, without the layer."""
    return np.array(token_ids, dtype=np.int64) | (np.array(positions, dtype=np.int64) << POSITION_SHIFT)


def _describe(entry: int) -> str:
    if entry == 0:
        return "nothing"
    layer, position = (entry >> LAYER_SHIFT) - 1, (entry >> POSITION_SHIFT) & FIELD_MASK
    return f"token {entry & FIELD_MASK} of layer {layer} position {position}"
