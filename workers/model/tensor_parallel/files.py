"""Reads parts of weights out of a folder's safetensors files: a rank reads what it holds, and no more."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from workers.model.tensor_parallel.names import Source, sources_of
from workers.model.tensor_parallel.shard import Shard


class WeightFiles:
    """Open from `__enter__` to `__exit__`.

    Attributes:
        num_bytes: Read so far.
    """

    def __init__(self, files: Sequence[Path], model: Any) -> None:
        """`model`: whose weights they are, whole; may be on the device `meta`."""
        self._files = files
        self._model = model
        self._readers: list[Any] = []
        self._by_key: dict[str, Any] = {}
        self._sources: Mapping[str, Source] = {}
        self.num_bytes = 0

    def __enter__(self) -> Self:
        """Raises: ConfigError, as `sources_of` does."""
        from safetensors import safe_open

        for path in self._files:
            reader: Any = safe_open(path, framework="pt")
            reader.__enter__()
            self._readers.append(reader)
            self._by_key.update(dict.fromkeys(reader.keys(), reader))
        self._sources = sources_of(self._model, self._by_key)
        return self

    def __exit__(self, *error: Any) -> None:
        for reader in self._readers:
            reader.__exit__(*error)

    def read(self, name: str, shard: Shard) -> Tensor | None:
        """The rank's part, in the file's dtype; None: no file has it."""
        source = self._sources.get(name)
        if source is None:
            return None
        if not source.is_by_expert:
            return self._counted(self._plain(name, source, shard))
        experts = [self._counted(_joined(self._slices(keys), shard)) for keys in zip(*source.parts, strict=True)]
        return torch.stack(experts)

    def _plain(self, name: str, source: Source, shard: Shard) -> Tensor:
        slices = self._slices(part[0] for part in source.parts)
        if len(slices) > 1:
            return _joined(slices, shard)
        self._check(name, slices[0].get_shape(), shard.shape)
        return shard.of(slices[0])

    def _slices(self, keys: Iterable[str]) -> list[Any]:
        return [self._by_key[key].get_slice(key) for key in keys]

    def _counted(self, part: Tensor) -> Tensor:
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
