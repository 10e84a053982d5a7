"""A hash that two workers share only if their weights are the same: of config, dtype, and some values of each."""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workers.model.quantized.scaled_linear import ScaledLinear

NOT_HASHED = frozenset({"_name_or_path", "transformers_version", "dtype", "architectures"})
NUM_SAMPLED_VALUES = 64  # of each weight


def fingerprint(config: Any, dtype: torch.dtype, model: nn.Module, values: Tensor) -> str:
    """`model`: the whole, which may be on the device `meta`; `values`: as `samples_of` it gives them."""
    told = {key: value for key, value in config.to_dict().items() if key not in NOT_HASHED}
    digest = hashlib.sha256(json.dumps([told, str(dtype)], sort_keys=True, default=str).encode())
    for name, weight in model.named_parameters():
        digest.update(f"{name}{tuple(weight.shape)}".encode())
    digest.update((values + 0.0).numpy().tobytes())  # -0.0 becomes 0.0, as sums over ranks make it
    return digest.hexdigest()[:32]


def indices(numel: int) -> np.ndarray:
    """Flat indices of the values that are hashed, of a weight of so many."""
    return np.arange(0, numel, max(1, numel // NUM_SAMPLED_VALUES))[:NUM_SAMPLED_VALUES]


def samples_of(whole: nn.Module, held: nn.Module | None = None) -> Tensor:
    """Those of all weights, in order; float32, on the CPU.

    Args:
        held: Who has them, where some of its linear layers are others than in `whole`.
    """
    values = []
    for name, weight in whole.named_parameters():
        owner, _, last = name.rpartition(".")
        module = (held or whole).get_submodule(owner)
        flat = torch.from_numpy(indices(weight.numel()))
        if isinstance(module, ScaledLinear) and last == "weight":
            found = module.weight.at(flat.to(module.weight.device)).to(module.dtype)
        else:
            elements = getattr(module, last).detach().reshape(-1)
            found = elements[flat.to(elements.device)]
        values.append(found.float())
    return torch.cat(values).cpu()
