"""Reads parts of weights out of a folder's safetensors files: a rank reads what it holds, and no more."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.model.quantized.checkpoint import Checkpoint
from workers.model.quantized.scaled_weight import ScaledWeight, joined
from workers.model.tensor_parallel.names import Source, sources_of
from workers.model.tensor_parallel.shard import Shard


class WeightFiles:
    """What a checkpoint has of a model's weights; parts may be read by several threads.

    Attributes:
        num_bytes: Of what was read so far, dequantized.
    """

    def __init__(self, checkpoint: Checkpoint, model: Any) -> None:
        """
        Args:
            checkpoint: Open.
            model: Whose weights they are, whole; may be on the device `meta`.
        Raises:
            ConfigError: As `sources_of`.
        """
        self._checkpoint = checkpoint
        self._sources = sources_of(model, checkpoint.keys())
        self._lock = threading.Lock()
        self.num_bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._sources

    def stored_dtype(self, name: str) -> str:
        """Of a weight that is one in the files, and quantized there, as they name it; of any other empty."""
        source = self._sources.get(name)
        keys = [key for part in source.parts for key in part] if source is not None else []
        return self._checkpoint.stored_dtype(keys[0]) if len(keys) == 1 else ""

    def read(self, name: str, shard: Shard) -> Tensor | None:
        """The rank's part, in the file's dtype, or the checkpoint's where it is quantized; None: no file has it."""
        source = self._sources.get(name)
        if source is None:
            return None
        if not source.is_by_expert:
            return self._counted(self._plain(name, source, shard))
        experts = [self._counted(_joined(self._slices(keys), shard)) for keys in zip(*source.parts, strict=True)]
        return torch.stack(experts)

    def kept(self, name: str, shard: Shard) -> ScaledWeight | None:
        """The rank's part as it is stored, of a quantized weight; None: it has to be dequantized."""
        source = self._sources[name]
        (found,) = self._slices(part[0] for part in source.parts)
        self._check(name, found.get_shape(), shard.shape)
        if shard.num_padded or (not shard.is_whole and shard.dim == 1 and len(shard.runs) > 1):
            return None
        before = (slice(None),) * (0 if shard.is_whole else shard.dim)
        parts = [found.kept((*before, slice(*run))) for run in shard.runs]
        whole = [part for part in parts if part is not None]
        return None if len(whole) < len(parts) else joined(whole)

    def _plain(self, name: str, source: Source, shard: Shard) -> Tensor:
        slices = self._slices(part[0] for part in source.parts)
        if len(slices) > 1:
            return _joined(slices, shard)
        self._check(name, slices[0].get_shape(), shard.shape)
        return shard.of(slices[0])

    def _slices(self, keys: Iterable[str]) -> list[Any]:
        return [self._checkpoint.slice(key) for key in keys]

    def _counted(self, part: Tensor) -> Tensor:
        with self._lock:
            self.num_bytes += part.nbytes
        return part

    @staticmethod
    def _check(name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
        if tuple(found) != tuple(wanted):
            raise ValueError(f"{name} has the shape {list(found)} where the config makes it {list(wanted)}")


def _joined(parts: Sequence[Any], shard: Shard) -> Tensor:
    """Of what the files have as the parts of a weight's outputs one after the other, the rank's inputs or outputs.

    Of experts' weights, [experts, outputs, inputs], the parts are one expert's.
    """
    if shard.is_whole:
        return torch.cat([part[:] for part in parts])
    if len(shard.shape) > 1 and shard.dim == len(shard.shape) - 1:
        (down,) = parts
        return torch.cat([down[:, start:end] for start, end in shard.runs], dim=1)
    pieces, begin = [], 0
    for part, (start, end) in zip(parts, shard.runs, strict=True):
        pieces.append(part[start - begin : end - begin])
        begin += part.get_shape()[0]
    return torch.cat(pieces)
