"""Tiny random models of every served family, written as folders that load like any other.

Weights are drawn with a large spread, heads and KV heads differ, and windows and caps bind within a few tokens: at the
default spread a dropped cap or window changes no token, and a test of equality would be blind.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

COMMON: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
WINDOWED = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "layer_types": WINDOWED},
    "qwen3": {},
    "qwen3_moe": {**EXPERTS, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "gemma2": {
        "sliding_window": 7,
        "layer_types": WINDOWED,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 24,
    },
    "gemma3_text": {"sliding_window": 7, "layer_types": WINDOWED, "query_pre_attn_scalar": 24},
    "phi3": {"sliding_window": 9},
    "olmo2": {},
    "gpt_oss": {
        "sliding_window": 7,
        "layer_types": WINDOWED,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}

MAMBA2: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_expand": 2,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 8,
}
GATED_DELTA: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}
HYBRIDS: dict[str, dict[str, Any]] = {  # with layers of linear attention
    "minimax": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "block_size": 8,
    },
    "qwen3_next": {**EXPERTS, **GATED_DELTA, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 2},
    "qwen3_5_text": {**GATED_DELTA},
    "qwen3_5_moe_text": {**EXPERTS, **GATED_DELTA, "shared_expert_intermediate_size": 48},
    "bamba": {**{key: value for key, value in MAMBA2.items() if key != "layer_types"}, "attn_layer_indices": [1]},
    "granitemoehybrid": {**MAMBA2, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 64},
    "granitemoehybrid_dense": {  # as Granite 4.0's small ones are: no experts; and whatever else the family may have
        **MAMBA2,
        "model_type": "granitemoehybrid",
        "num_local_experts": 0,
        "shared_intermediate_size": 64,
        "position_embedding_type": "rope",
        "mamba_n_groups": 1,
        "mamba_proj_bias": True,
        "mamba_conv_bias": False,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "kimi_linear": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "linear_num_heads": 4,
        "linear_head_dim": 12,
        "linear_conv_kernel_dim": 4,
        "kv_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "n_group": 1,
        "topk_group": 1,
    },
}

OTHERS: dict[str, dict[str, Any]] = {  # which are not divided by their heads
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    }
}


def tiny(family: str, **overrides: Any) -> Path:
    """The folder of a tiny float32 model; made once per machine for the same arguments.

    Args:
        family: A key of `FAMILIES`, `HYBRIDS` or `OTHERS`, which is also the `model_type` where the fields have none.
        overrides: Fields of its config.
    """
    fields = {**COMMON, **{**FAMILIES, **HYBRIDS, **OTHERS}[family], **overrides}
    key = hashlib.sha256(json.dumps([family, fields, 1], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"baton-tiny-{family}-{key}"
    if not folder.is_dir():
        _write(family, fields, folder)
    return folder


def _write(family: str, fields: dict[str, Any], folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**{"model_type": family, **fields})
    auto_model: Any = AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = auto_model.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:  # norms and biases start at one value each, which hides mistakes
                    weight.add_(torch.randn_like(weight) * 0.2)
    _save(model, folder)


def _save(model: Any, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        model.save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:  # another process made the same one meanwhile
            assert folder.is_dir()


def silenced(folder: Path, layers: Sequence[int], share: float = 0.0) -> Path:
    """A model like that of `folder`, some of whose layers add little to what they are given.

    Args:
        share: Of what they added; 0: nothing.
    """
    made = folder.with_name(f"{folder.name}-silenced-{'-'.join(map(str, layers))}-{share}")
    if not made.is_dir():
        from transformers import AutoModelForCausalLM

        auto_model: Any = AutoModelForCausalLM
        model = auto_model.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            for index in layers:
                layer = model.base_model.layers[index]
                for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    linear.weight.mul_(share)
        _save(model, made)
    return made


def near(folder: Path, spread: float) -> Path:
    """A model like that of `folder` whose weights differ a little: it thinks alike more often than not, not always.

    Args:
        spread: Of what is added, beside that of each weight.
    """
    made = folder.with_name(f"{folder.name}-near-{spread}")
    if not made.is_dir():
        from transformers import AutoModelForCausalLM

        auto_model: Any = AutoModelForCausalLM
        model = auto_model.from_pretrained(folder, dtype=torch.float32)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(4)
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * spread * weight.std())
        _save(model, made)
    return made
