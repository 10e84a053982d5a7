"""Checkpoints with factors for keys and values in FP8."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FACTORS = torch.tensor([[[0.03, 0.5], [0.011, 1.7]], [[0.2, 0.07], [0.9, 0.015]], [[1.0, 0.33], [0.02, 0.02]]])
# [layers, keys and values, KV heads] of a tiny model


def scaled(folder: Path, target: Path, names: Mapping[str, Tensor] | None = None, **config: Any) -> Path:
    """A copy in `target` that has `names` too; None: `FACTORS`, as compressed-tensors names them.

    Args:
        config: Fields that config.json has too.
    """
    shutil.copytree(folder, target, dirs_exist_ok=True)
    if names is None:
        names = {
            f"model.layers.{layer}.self_attn.{name}_scale": factors
            for layer, both in enumerate(FACTORS)
            for name, factors in zip("kv", both, strict=True)
        }
    path = target / "model.safetensors"
    save_file(load_file(path) | {name: factors.clone() for name, factors in names.items()}, path, {"format": "pt"})
    told = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(told | config))
    return target
