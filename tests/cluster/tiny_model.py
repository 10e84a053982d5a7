"""A tiny random model that a cluster serves, and what transformers writes with it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.models import tiny
from workers.model.registry import BUNDLED


def tiny_served(folder: Path, family: str) -> Path:
    """Copies a model of `family` to `folder`, which must not be there yet, with the demo model's tokenizer."""
    shutil.copytree(tiny(family, vocab_size=4096, max_position_embeddings=512), folder)
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
