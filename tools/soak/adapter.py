"""A small LoRA adapter for the model that is served, as PEFT writes them; its weights follow from a seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

RANK = 4
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
TARGETS = ("q_proj", "v_proj")


def write_adapter(folder: Path, model_config: dict[str, Any], seed: int) -> Path:
    """
    Args:
        model_config: The model's `config.json`.
    Raises:
        ValueError: Its layers have other names or shapes than Llama's.
    """
    if model_config["model_type"] not in LIKE_LLAMA:
        raise ValueError(f"none is written for {model_config['model_type']}, but for {', '.join(LIKE_LLAMA)}")
    rng = np.random.default_rng(seed)
    hidden, heads = model_config["hidden_size"], model_config["num_attention_heads"]
    head_dim = model_config.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * head_dim, "v_proj": model_config["num_key_value_heads"] * head_dim}
    weights = {}
    for layer in range(model_config["num_hidden_layers"]):
        for target in TARGETS:
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            for part, shape in (("lora_A", (RANK, hidden)), ("lora_B", (widths[target], RANK))):
                weights[f"{name}.{part}.weight"] = rng.normal(0, 0.05, shape).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": list(TARGETS)}))
    return folder
