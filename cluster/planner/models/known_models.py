"""Models that the planner knows without a network: the fields of their `config.json` that it reads.

Each from the model's own page on huggingface.co, file config.json, unless said otherwise.
"""

from typing import Any

from baton.errors import ConfigError
from cluster.planner.models.model_spec import ModelSpec


def known_model(name: str, *, dtype: str | None = None) -> ModelSpec:
    """The spec of a name below, whatever its case.

    Raises:
        ConfigError: The name is unknown; the message lists the known.
    """
    by_case = {known.lower(): known for known in CONFIGS}
    if name.lower() not in by_case:
        raise ConfigError(
            f"model {name!r} is not known to the planner; give a folder with its config.json, or one of: "
            f"{', '.join(CONFIGS)}"
        )
    known = by_case[name.lower()]
    return ModelSpec.from_config(CONFIGS[known], name=known, dtype=dtype)


def _llama(hidden: int, inner: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "vocab_size": 128_256,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        **others,
    }


def _qwen3(hidden: int, inner: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    fields = {"model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40_960, "vocab_size": 151_936}
    return _llama(hidden, inner, layers, heads, **{**fields, **others})


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "hidden_size": hidden,
        "word_embed_proj_dim": hidden,
        "ffn_dim": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
        "vocab_size": 50_272,
        "dtype": "float16",
    }


_SMOLLM2_135M = _llama(
    576,
    1536,
    30,
    9,
    num_key_value_heads=3,
    vocab_size=49_152,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)


def _deepseek(**others: Any) -> dict[str, Any]:
    """DeepSeek-V3's layers; weights in fp8, with a scale for each block."""
    return {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "intermediate_size": 18_432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "moe_layer_freq": 1,
        "n_group": 8,
        "topk_group": 4,
        "num_nextn_predict_layers": 1,
        "max_position_embeddings": 163_840,
        "vocab_size": 129_280,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
        **others,
    }


def _kimi(**others: Any) -> dict[str, Any]:
    return _deepseek(
        model_type="kimi_k2",
        num_attention_heads=64,
        num_key_value_heads=64,
        n_routed_experts=384,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        num_nextn_predict_layers=0,
        vocab_size=163_840,
        **others,
    )


def _gpt_oss(layers: int, experts: int) -> dict[str, Any]:
    """Attention, routers and embeddings in bfloat16, experts in MXFP4."""
    return {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": experts,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "attention_bias": True,
        "max_position_embeddings": 131_072,
        "vocab_size": 201_088,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"],
        },
    }


def _qwen3_5(hidden: int, layers: int, heads: int, value_heads: int, **others: Any) -> dict[str, Any]:
    """The language part; every fourth layer has full attention, with an output gate."""
    return {
        "model_type": "qwen3_5_text",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "max_position_embeddings": 262_144,
        "vocab_size": 248_320,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **others,
    }


def _qwen3_5_moe(hidden: int, layers: int, heads: int, value_heads: int, inner: int, **others: Any) -> dict[str, Any]:
    experts = {
        "model_type": "qwen3_5_moe_text",
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": inner,
        "shared_expert_intermediate_size": inner,
    }
    return _qwen3_5(hidden, layers, heads, value_heads, **{**experts, **others})


CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2": _SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2_135M,
    "meta-llama/Llama-3.1-8B": _llama(4096, 14_336, 32, 32),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(4096, 14_336, 32, 32),
    "meta-llama/Llama-3.1-70B": _llama(8192, 28_672, 80, 64),
    "meta-llama/Llama-3.1-70B-Instruct": _llama(8192, 28_672, 80, 64),
    "meta-llama/Llama-3.3-70B-Instruct": _llama(8192, 28_672, 80, 64),
    "meta-llama/Llama-3.1-405B": _llama(16_384, 53_248, 126, 128),
    "meta-llama/Llama-3.2-1B": _llama(2048, 8192, 16, 32, head_dim=64, tie_word_embeddings=True),
    "meta-llama/Llama-3.2-3B": _llama(3072, 8192, 28, 24, head_dim=128, tie_word_embeddings=True),
    "meta-llama/Llama-2-7b-hf": _llama(
        4096, 11_008, 32, 32, num_key_value_heads=32, vocab_size=32_000, max_position_embeddings=4096, dtype="float16"
    ),
    "meta-llama/Llama-2-70b-hf": _llama(
        8192, 28_672, 80, 64, vocab_size=32_000, max_position_embeddings=4096, dtype="float16"
    ),
    "mistralai/Mistral-7B-v0.1": _llama(
        4096,
        14_336,
        32,
        32,
        model_type="mistral",
        vocab_size=32_000,
        max_position_embeddings=32_768,
        sliding_window=4096,
    ),
    "mistralai/Mistral-7B-v0.3": _llama(
        4096, 14_336, 32, 32, model_type="mistral", vocab_size=32_768, max_position_embeddings=32_768
    ),
    "mistralai/Mixtral-8x7B-v0.1": _llama(
        4096,
        14_336,
        32,
        32,
        model_type="mixtral",
        vocab_size=32_000,
        max_position_embeddings=32_768,
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tie_word_embeddings=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12_288, 36, 32),
    "Qwen/Qwen3-32B": _qwen3(5120, 25_600, 64, 64),
    "Qwen/Qwen3-30B-A3B": _qwen3(
        2048,
        6144,
        48,
        32,
        model_type="qwen3_moe",
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "Qwen/Qwen3-235B-A22B": _qwen3(
        4096,
        12_288,
        94,
        64,
        model_type="qwen3_moe",
        num_key_value_heads=4,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=1536,
    ),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": _qwen3(
        2048,
        5120,
        48,
        16,
        model_type="qwen3_next",
        head_dim=256,
        num_key_value_heads=2,
        max_position_embeddings=262_144,
        full_attention_interval=4,
        linear_conv_kernel_dim=4,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=16,
        linear_num_value_heads=32,
        num_experts=512,
        num_experts_per_tok=10,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
    ),
    "Qwen/Qwen3.5-9B": _qwen3_5(4096, 32, 16, 32, num_key_value_heads=4, intermediate_size=12_288),
    "Qwen/Qwen3.5-27B": _qwen3_5(5120, 64, 24, 48, num_key_value_heads=4, intermediate_size=17_408),
    "Qwen/Qwen3.5-35B-A3B": _qwen3_5_moe(2048, 40, 16, 32, 512),
    "Qwen/Qwen3.5-122B-A10B": _qwen3_5_moe(3072, 48, 32, 64, 1024),
    "Qwen/Qwen3.5-397B-A17B": _qwen3_5_moe(4096, 60, 32, 64, 1024, num_experts=512, num_experts_per_tok=10),
    "deepseek-ai/DeepSeek-V3": _deepseek(),
    "deepseek-ai/DeepSeek-R1": _deepseek(),
    "moonshotai/Kimi-K2-Instruct": _kimi(max_position_embeddings=131_072),
    "openai/gpt-oss-20b": _gpt_oss(24, 32),
    "openai/gpt-oss-120b": _gpt_oss(36, 128),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
    "facebook/opt-13b": _opt(5120, 40, 40),
    "facebook/opt-30b": _opt(7168, 48, 56),
    "facebook/opt-66b": _opt(9216, 64, 72),
    # Never on the Hub; layers, heads and width of table 1 of Zhang et al., arXiv 2205.01068.
    "facebook/opt-175b": _opt(12_288, 96, 96),
}
