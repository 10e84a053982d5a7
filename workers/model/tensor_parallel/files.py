"""Reads parts of weights out of a folder's safetensors files: a rank reads what it holds, and no more.

Names are those of transformers' own model code; where files name weights otherwise (each expert by itself, no prefix
of the base model), that is put right here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from workers.model.tensor_parallel.shard import Shard

EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}  # how files name an expert's weights


class WeightFiles:
    """Open from `__enter__` to `__exit__`.

    Attributes:
        num_bytes: Read so far.
    """

    def __init__(self, files: Sequence[Path], prefix: str) -> None:
        """`prefix`: of the base model's weights in the model, which files of the base model alone leave out."""
        self._files = files
        self._prefix = f"{prefix}."
        self._readers: list[Any] = []
        self._by_name: dict[str, Any] = {}
        self.num_bytes = 0

    def __enter__(self) -> Self:
        from safetensors import safe_open

        for path in self._files:
            reader: Any = safe_open(path, framework="pt")
            reader.__enter__()
            self._readers.append(reader)
            self._by_name.update(dict.fromkeys(reader.keys(), reader))
        return self

    def __exit__(self, *error: Any) -> None:
        for reader in self._readers:
            reader.__exit__(*error)

    def read(self, name: str, shard: Shard) -> Tensor | None:
        """The rank's part, in the file's dtype; None: no file has it."""
        found = self._slice(name)
        if found is not None:
            self._check(name, found.get_shape(), shard.shape)
            return self._counted(shard.of(found))
        experts = list(self._experts(name, shard))
        return torch.stack(experts) if experts else None

    def _slice(self, name: str) -> Any:
        for key in (name, name.removeprefix(self._prefix)):
            if key in self._by_name:
                return self._by_name[key].get_slice(key)
        return None

    def _experts(self, name: str, shard: Shard) -> Iterator[Tensor]:
        """Each expert's part of a weight of all experts, [experts, outputs, inputs]."""
        owner, _, last = name.rpartition(".")
        if last not in EXPERTS or len(shard.shape) != 3:
            return
        for expert in range(shard.shape[0]):
            parts = [self._slice(f"{owner}.{expert}.{part}.weight") for part in EXPERTS[last]]
            if any(part is None for part in parts):
                return
            yield self._counted(_expert(parts, shard))

    def _counted(self, part: Tensor) -> Tensor:
        self.num_bytes += part.nbytes
        return part

    @staticmethod
    def _check(name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
        if tuple(found) != tuple(wanted):
            raise ValueError(f"{name} has the shape {list(found)} where the config makes it {list(wanted)}")


def _expert(parts: Sequence[Any], shard: Shard) -> Tensor:
    """Of one expert's files, which are the parts of its outputs one after the other, the rank's inputs or outputs."""
    if shard.is_whole:
        return torch.cat([part[:] for part in parts])
    if shard.dim == 2:
        (down,) = parts
        return torch.cat([down[:, start:end] for start, end in shard.runs], dim=1)
    pieces, begin = [], 0
    for part, (start, end) in zip(parts, shard.runs, strict=True):
        pieces.append(part[start - begin : end - begin])
        begin += part.get_shape()[0]
    return torch.cat(pieces)
