"""LoRA adapters of tiny models, as PEFT writes them, and the same merged into their base by PEFT."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def adapter_of(base: Path, seed: int = 1, targets: Sequence[str] | str = ATTENTION + MLP, **fields: Any) -> Path:
    """A folder with an adapter that changes most tokens; made once per machine for the same arguments.

    Args:
        fields: Of PEFT's LoraConfig.
    """
    names = targets if isinstance(targets, str) else list(targets)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": names, "task_type": "CAUSAL_LM", **fields}
    return _made("adapter", [str(base), seed, settings], lambda folder: _write(base, seed, settings, folder))


def merged(base: Path, adapter: Path) -> Path:
    """The folder of a model into whose weights PEFT has merged the adapter, in float32."""
    return _made("merged", [str(base), str(adapter)], lambda folder: _merge(base, adapter, folder))


def rounded(base: Path) -> Path:
    """A model like that of `base` whose weights are bfloat16's in float32, as most that are published."""

    def write(folder: Path) -> None:
        model = _base(base)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.bfloat16().float())
        model.save_pretrained(folder)

    return _made("rounded", [str(base)], write)


def _made(kind: str, key: list[Any], write: Any) -> Path:
    digest = hashlib.sha256(json.dumps([kind, key, 2], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"baton-tiny-{kind}-{digest}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            write(made)
            try:
                made.rename(folder)
            except OSError:  # another process made the same one meanwhile
                assert folder.is_dir()
    return folder


def _base(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    auto_model: Any = AutoModelForCausalLM
    return auto_model.from_pretrained(folder, dtype=torch.float32)


def _write(base: Path, seed: int, settings: dict[str, Any], folder: Path) -> None:
    import peft

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: Any = peft.get_peft_model(_base(base), peft.LoraConfig(**settings))
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    import peft

    made: Any = peft.PeftModel.from_pretrained(_base(base), str(adapter))
    made.merge_and_unload().save_pretrained(folder)
