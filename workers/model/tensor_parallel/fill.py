"""Fills the weights of a share: from files, or from a seed; and tells of all ranks' weights what one rank would."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baton.errors import ConfigError
from workers.model import start_report
from workers.model.quantized.checkpoint import Checkpoint
from workers.model.quantized.formats import Scheme
from workers.model.tensor_parallel.build import HEAD, Share, stored_names
from workers.model.tensor_parallel.files import WeightFiles
from workers.model.tensor_parallel.ranks import Ranks
from workers.model.tensor_parallel.shard import Shard
from workers.model.weight_lanes import WeightLanes, in_threads


def fill_stored(share: Share, files: Sequence[Path], scheme: Scheme | None, device: torch.device) -> int:
    """Returns: bytes read.

    Raises: ConfigError: weights are missing, or have another shape than the config says.
    """
    folder, report = files[0].parent, start_report.current()
    lanes = WeightLanes(device)
    everything = list(_all_weights(share))
    with Checkpoint(files, scheme, share.head[0].dtype, lanes.bring) as checkpoint:
        weights = WeightFiles(checkpoint, share.whole)
        missing = sorted({name for name, _ in everything if name not in weights})
        if missing:
            raise ConfigError(
                f"model: {folder} lacks {len(missing)} weights of {type(share.whole).__name__}, the first is "
                f"{missing[0]}; fetch the folder again"
            )
        report.begin(sum(target.nbytes for _, (target, _) in everything))

        def fill(name: str, target: Tensor, shard: Shard) -> None:
            try:
                part = weights.read(name, shard)
            except ValueError as error:
                raise ConfigError(f"model: {folder}: {error}; fetch the folder again") from error
            assert part is not None
            if shard.is_zero:
                target.zero_()
            else:
                lanes.put(target, part)
            report.add(target.nbytes)

        in_threads(partial(fill, name, *placed) for name, placed in everything)
        return weights.num_bytes


def fill_dummy(share: Share, seed: int, device: torch.device) -> None:
    """Makes each module's weights whole, one module at a time, and keeps the rank's part: the same at every degree."""
    for name, module in drawn_modules(share.whole):
        module.to_empty(device=device, recurse=False)
        draw(share.whole, name, module, seed, device)
        for key, (target, shard) in _all_weights(share):
            owner, _, last = key.rpartition(".")
            if owner == name:
                _put(target, shard, shard.of(getattr(module, last).detach()))
        module.to_empty(device="meta", recurse=False)


def drawn_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Those that own what files have; a weight that two share is the first one's."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in stored_names(model))
    return [(name, model.get_submodule(name)) for name in owners]


def draw(model: Any, name: str, module: nn.Module, seed: int, device: torch.device) -> None:
    """Fills one module's own weights as transformers does, from a seed of its own: (seed, name) alone decide.

    What transformers fills elsewhere (a router's weights, when it comes to the layer around it) is zero.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(int.from_bytes(digest[:7], "little"))
        for weight in module.parameters(recurse=False):
            weight.zero_()
        model._init_weights(module)


def sampled(shard: Shard, local: Tensor, flat: np.ndarray) -> Tensor:
    """Elements `flat` (indices of the whole) that are in this part, zeros for the others; float32, on the CPU."""
    places = shard.places(flat)
    found = local.detach().reshape(-1)[torch.from_numpy(np.maximum(places, 0)).to(local.device)].float().cpu()
    return torch.where(torch.from_numpy(places >= 0), found, torch.zeros_like(found))


def sampled_of_all(share: Share, ranks: Ranks, indices: Callable[[int], np.ndarray]) -> Tensor:
    """Samples of all weights, in the whole model's order, as each rank has them put together; the same on every rank.

    Args:
        indices: Of a weight's number of elements, the flat indices of those that are sampled.
    """
    values = []
    for name, whole in share.whole.named_parameters():
        flat = indices(whole.numel())
        if name != f"{HEAD}.weight" and name not in share.weights:
            values.append(torch.zeros(2, len(flat)))
            continue
        local, shard = share.head if name == f"{HEAD}.weight" else share.weights[name]
        is_here = torch.from_numpy(shard.places(flat) >= 0)
        values.append(torch.stack([sampled(shard, local, flat), is_here.float()]))
    found = ranks.gather(torch.cat(values, dim=1))
    merged = torch.zeros(sum(one.shape[1] for one in values))
    for one in reversed(found or ()):
        merged = torch.where(one[1] > 0, one[0], merged)
    ranks.all_reduce(merged)
    return merged


def _all_weights(share: Share) -> Iterator[tuple[str, tuple[Tensor, Shard]]]:
    yield from share.weights.items()
    yield share.head_name, share.head


def _put(target: Tensor, shard: Shard, part: Tensor) -> None:
    if shard.is_zero:
        target.zero_()
    else:
        target.copy_(part)
