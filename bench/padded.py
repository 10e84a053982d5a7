"""A model that writes what another writes and takes longer: layers are added whose answers are zero.

For benchmarks of drafts: how often a draft is right stays that of two trained models, while the target costs as many
times the draft as is wished.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from workers.model.cache_folder import made_cache_folder

SILENT = ("o_proj.weight", "down_proj.weight")  # of an added layer: it adds what these give


def padded(folder: Path, num_layers: int) -> Path:
    """A folder of the model in `folder` with `num_layers` layers in all; made once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = made_cache_folder("bench") / f"{folder.name}-{num_layers}-layers"
    if made.is_dir():
        return made
    auto_config: Any = AutoConfig
    auto_model: Any = AutoModelForCausalLM
    config = auto_config.from_pretrained(folder)
    config.num_hidden_layers, num_own = num_layers, config.num_hidden_layers
    torch.manual_seed(0)
    model = auto_model.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(auto_model.from_pretrained(folder, dtype=torch.bfloat16).state_dict(), strict=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            parts = name.split(".")
            if "layers" in parts and int(parts[parts.index("layers") + 1]) >= num_own and name.endswith(SILENT):
                weight.zero_()
    scratch = made.with_name(f"{made.name}.part")
    model.save_pretrained(scratch)
    for file in folder.glob("*.json"):
        if not (scratch / file.name).exists():
            shutil.copy(file, scratch)
    scratch.rename(made)
    return made
