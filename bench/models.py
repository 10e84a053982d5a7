"""Model folders without weights for benchmarks (`load_format: dummy`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    positions: int


# 156 M parameters: what reference figures of other engines on small CPU machines were taken with.
LLAMA_150M = LlamaShape(hidden=1024, layers=12, heads=16, kv_heads=8, mlp=2816, vocab=4096, positions=8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridShape:
    """Three layers of a gated delta rule to one of softmax, as Qwen3.5 has them; heads of 128."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    linear_key_heads: int
    linear_value_heads: int
    mlp: int
    vocab: int
    positions: int


# 115 M parameters.
HYBRID_115M = HybridShape(
    hidden=1024,
    layers=8,
    heads=8,
    kv_heads=2,
    linear_key_heads=4,
    linear_value_heads=8,
    mlp=2816,
    vocab=4096,
    positions=32768,
)


def write_hybrid(shape: HybridShape, folder: Path) -> Path:
    """As `write_dummy`."""
    return _write(
        folder,
        {
            "architectures": ["Qwen3_5ForCausalLM"],
            "model_type": "qwen3_5_text",
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * (shape.layers // 4),
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": 128,
            "linear_num_key_heads": shape.linear_key_heads,
            "linear_num_value_heads": shape.linear_value_heads,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "intermediate_size": shape.mlp,
            "vocab_size": shape.vocab,
            "max_position_embeddings": shape.positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            "tie_word_embeddings": True,
            "initializer_range": 0.1,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "dtype": "bfloat16",
        },
    )


def write_dummy(shape: LlamaShape, folder: Path) -> Path:
    """Writes config.json of a Llama of that shape into `folder` and returns it."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    return _write(folder, config)


def _write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
