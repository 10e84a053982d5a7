"""The LoRA adapters that one runner holds beside its model, or one rank its part of."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from baton.errors import ConfigError
from workers.adapters.adapter import AdapterSpec
from workers.adapters.fitting import check_fits
from workers.adapters.peft_folder import DOWN, PREFIX, UP, AdapterFile, read_adapter
from workers.model.contract import Chunk
from workers.model.device_memory import check_room
from workers.model.lora.adapted import AdaptedLinear, Factors, Part, joined
from workers.model.lora.linears import Linears
from workers.model.lora.mix import Mix, rows_of
from workers.model.lora.sites import find_site
from workers.model.tensor_parallel.shard import Shard

logger = logging.getLogger(__name__)


class Adapters:
    """Of the runner's thread. Ids are the caller's, from 1; 0 is the model as it is."""

    def __init__(self, model: nn.Module, linears: Linears, *, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._linears = linears
        self._dtype = dtype
        self._device = device
        self._mix = Mix()
        self._held: dict[int, list[AdaptedLinear]] = {}

    def use(self, chunks: Sequence[Chunk]) -> bool:
        """For the step of `chunks`, until the next; whether any has an adapter."""
        self._mix.parts = rows_of(chunks, self._device) if self._held else ()
        return bool(self._mix.parts)

    def load(self, adapter_id: int, spec: AdapterSpec) -> None:
        """Raises: ConfigError: the folder is no adapter of this model, or there is no memory; nothing is held then."""
        file = read_adapter(spec.name, Path(spec.folder))
        if spec.content_hash and file.content_hash != spec.content_hash:
            raise ConfigError(
                f"adapters.{spec.name}: {spec.folder} has the content {file.content_hash} here and "
                f"{spec.content_hash} where it was loaded first; make the folders alike"
            )
        check_fits(file, self._linears.shapes, self._linears.others)
        check_room(file.num_parameters * self._dtype.itemsize, f"adapters.{spec.name}", self._device)
        factors = self._read(file)
        for layer, mine in factors.items():
            layer.factors[adapter_id] = mine
        self._held[adapter_id] = list(factors)
        num_bytes = sum(mine.nbytes for mine in factors.values())
        logger.info("loaded an adapter name=%s id=%d num_bytes=%d", spec.name, adapter_id, num_bytes)

    def unload(self, adapter_id: int) -> None:
        """No step names it any more. Idempotent."""
        for layer in self._held.pop(adapter_id, ()):
            layer.factors.pop(adapter_id, None)

    def _read(self, file: AdapterFile) -> dict[AdaptedLinear, Factors]:
        from safetensors import safe_open

        parts: dict[AdaptedLinear, list[Part]] = defaultdict(list)
        with safe_open(file.weights, framework="pt") as weights:
            for module, pair in file.pairs.items():
                names = (PREFIX + module + end for end in (DOWN, UP))
                down, up = (_finite(file, weights.get_tensor(name), name) for name in names)
                shard = self._linears.shards.get(f"{module}.weight")
                if shard is not None:
                    down, up = _cut(shard, down, up)
                site = find_site(self._model, module, self._mix)
                parts[site.adapted(self._mix)].append(Part(down, up, pair.scale, site.first_output))
        return {layer: joined(mine, layer.out_features, self._dtype, self._device) for layer, mine in parts.items()}


def _finite(file: AdapterFile, tensor: Tensor, name: str) -> Tensor:
    """Raises: ConfigError: a value of it is no number: whatever it is added to would be none."""
    if not bool(tensor.isfinite().all()):
        raise ConfigError(
            f"adapters.{file.name}: {file.weights}: {name} has a value that is infinite or no number; "
            "save the adapter again"
        )
    return tensor


def _cut(shard: Shard, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """What of A [rank, inputs] and B [outputs, rank] a rank needs that holds `shard` of the layer's weight.

    Of outputs it has some, of inputs each rank's part of B A x is added up with the layer's own.
    """
    if shard.is_whole:
        return down, up
    if shard.dim:
        return torch.cat([down[:, start:end] for start, end in shard.runs], dim=1), up
    return down, torch.cat([up[start:end] for start, end in shard.runs])
