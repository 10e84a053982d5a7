"""A tiny random model that a cluster serves, and what transformers writes with it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.models import tiny
from workers.model.registry import BUNDLED

THREE_TO_ONE: dict[str, Any] = {  # of Qwen3.5's layers
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}


def tiny_served(folder: Path, family: str, **overrides: Any) -> Path:
    """Copies a model of `family` to `folder`, which must not be there yet, with the demo model's tokenizer."""
    shutil.copytree(tiny(family, **{"vocab_size": 4096, "max_position_embeddings": 512, **overrides}), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED / "demo" / name, folder / name)
    return folder


def greedy_tokens(folder: Path, ids: Sequence[int], num_tokens: int) -> list[int]:
    """What transformers writes after `ids`, greedy, in float32, whatever ends an answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = torch.tensor([list(ids)])
    found = model.generate(prompt, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)
    return [int(token) for token in found[0, len(ids) :]]
