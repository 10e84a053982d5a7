"""Sizes of models: against the library's own modules, published counts, and hand calculations."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import ConfigError
from cluster.planner.models.known_models import CONFIGS, known_model
from cluster.planner.models.layer_spec import num_pairs
from cluster.planner.models.model_spec import ModelSpec

DATA = Path(os.environ.get("BATON_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
LLAMA = CONFIGS["meta-llama/Llama-3.1-8B"]

MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 12}
GRANITE: dict[str, Any] = {
    **MAMBA,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "num_key_value_heads": 2,
    "shared_intermediate_size": 80,
}
# What `transformers` builds of a whole config, one per layout; small ones, so that the modules are made quickly.
LAYOUTS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "mlp_only_layers": [1]},
    "qwen2_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3_next": {
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
    },
    "qwen3_5_text": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "qwen3_5_moe_text": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "minimax": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3], "num_key_value_heads": 2},
    "granitemoehybrid": {**GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoehybrid without experts": {**GRANITE, "model_type": "granitemoehybrid", "num_local_experts": 0},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 32, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 16, "sliding_window": 32, "tie_word_embeddings": True},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 24,
        "q_lora_rank": 20,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 12,
        "n_group": 1,
        "topk_group": 1,
    },
    "starcoder2": {"num_key_value_heads": 2, "use_bias": False, "norm_type": "rms_norm"},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "opt with a projection": {"model_type": "opt", "ffn_dim": 96, "word_embed_proj_dim": 32},
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}


def built(fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Parameters of the library's model of these fields, and the config as the library completes it."""
    config = transformers.AutoConfig.for_model(**fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters()), config.to_dict()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_parameters_are_those_that_the_library_builds(layout: str) -> None:
    count, config = built({"model_type": layout, **SMALL, **LAYOUTS[layout]})
    norms = 0
    if layout == "starcoder2":
        norms = (2 * SMALL["num_hidden_layers"] + 1) * SMALL["hidden_size"]  # its layer norms have biases
    assert ModelSpec.from_config(config).num_parameters == count - norms


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [  # from the models' pages and papers
        ("meta-llama/Llama-3.1-8B", 8.03, 8.03),
        ("meta-llama/Llama-3.1-70B", 70.6, 70.6),
        ("meta-llama/Llama-3.1-405B", 405.9, 405.9),
        ("mistralai/Mistral-7B-v0.1", 7.24, 7.24),
        ("mistralai/Mixtral-8x7B-v0.1", 46.7, 12.9),
        ("Qwen/Qwen3-8B", 8.19, 8.19),
        ("Qwen/Qwen3-30B-A3B", 30.5, 3.35),
        ("Qwen/Qwen3-235B-A22B", 235.1, 22.2),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 79.7, 3.87),
        ("facebook/opt-13b", 12.85, 12.85),
        ("facebook/opt-66b", 65.7, 65.7),
        ("facebook/opt-175b", 174.6, 174.6),
    ],
)
def test_known_models_have_their_published_sizes(name: str, billions: float, active: float) -> None:
    model = known_model(name.upper())
    assert model.name == name
    assert model.num_parameters / 1e9 == pytest.approx(billions, rel=5e-3)
    assert model.num_active_parameters / 1e9 == pytest.approx(active, rel=5e-3)


def test_known_models_agree_with_the_hub_configs() -> None:
    folder = DATA / "aiconfigurator" / "model_configs"
    if not folder.exists():
        pytest.skip(f"aiconfigurator/model_configs is not below {DATA}")
    for path in folder.glob("*.json"):
        name = path.name.removesuffix("_config.json").replace("--", "/").replace("Meta-Llama", "Llama")
        spec = ModelSpec.from_config(json.loads(path.read_text()), name=name)
        assert spec == known_model(name)


def test_kv_and_state_are_counted_per_layer_kind() -> None:
    assert known_model("meta-llama/Llama-3.1-8B").kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert known_model("facebook/opt-13b").kv_bytes_per_token == 2 * 40 * 5120 * 2
    hybrid = known_model("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert hybrid.num_kv_layers == 12
    assert hybrid.kv_bytes_per_token == 12 * 2 * 2 * 256 * 2
    assert [size > 0 for size in hybrid.kv_layer_bytes[:4]] == [False, False, False, True]
    conv = (2 * 16 * 128 + 32 * 128) * (4 - 1) * 2
    assert hybrid.state_bytes == 36 * (32 * 128 * 128 * 4 + conv)
    assert known_model("meta-llama/Llama-3.1-8B", dtype="float32").kv_bytes_per_token == 2 * 131_072


@pytest.mark.parametrize(
    "name", ["meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1", "Qwen/Qwen3-Next-80B-A3B-Instruct"]
)
@given(lengths=st.lists(st.integers(1, 6000), min_size=1, max_size=4))
def test_a_prompt_costs_the_same_in_chunks_but_for_the_sampled_tokens(name: str, lengths: list[int]) -> None:
    model = known_model(name)
    whole = model.prefill_flops(sum(lengths))
    chunks = [model.prefill_flops(length, sum(lengths[:place])) for place, length in enumerate(lengths)]
    assert sum(chunks) == whole + 2 * model.head_parameters * (len(lengths) - 1)


@given(context=st.integers(0, 10_000), batch=st.integers(1, 64))
def test_decodes_cost_what_prompts_of_one_token_do(context: int, batch: int) -> None:
    model = known_model("mistralai/Mistral-7B-v0.1")
    assert model.decode_flops(1, context) == model.prefill_flops(1, context)
    assert model.decode_flops(batch, batch * context) == batch * model.decode_flops(1, context)


@given(num_tokens=st.integers(0, 60), num_context=st.integers(0, 60), window=st.none() | st.integers(1, 40))
def test_pairs_are_those_of_the_mask(num_tokens: int, num_context: int, window: int | None) -> None:
    positions = range(num_context, num_context + num_tokens)
    seen = [min(position + 1, window or position + 1) for position in positions]
    assert num_pairs(num_tokens, num_context, window) == sum(seen)


def test_a_decode_step_reads_all_weights_once_and_the_experts_that_its_tokens_meet() -> None:
    dense, moe = known_model("meta-llama/Llama-3.1-8B"), known_model("Qwen/Qwen3-30B-A3B")
    embedding = 2 * dense.head_parameters
    assert dense.decode_bytes(1, 0) == dense.weight_bytes - embedding + dense.kv_bytes_per_token
    assert dense.decode_bytes(2, 200) - dense.decode_bytes(2, 100) == 100 * dense.kv_bytes_per_token
    one = moe.num_active_parameters - moe.head_parameters
    assert moe.decode_bytes(1, 0) == pytest.approx(2 * one, rel=1e-3)
    assert moe.decode_bytes(4096, 0) - 4096 * moe.kv_bytes_per_token == pytest.approx(moe.weight_bytes, rel=0.02)


def test_windows_bound_what_a_decode_reads() -> None:
    model = known_model("mistralai/Mistral-7B-v0.1")
    assert model.decode_bytes(2, 8192) == model.decode_bytes(2, 80_000)
    assert model.decode_bytes(2, 8000) < model.decode_bytes(2, 8192)


def test_tensor_parallel_degrees_divide_the_heads() -> None:
    model = known_model("meta-llama/Llama-3.1-8B")  # 32 heads, 8 KV heads
    assert [degree for degree in range(1, 33) if model.allows_tensor_parallel(degree)] == [1, 2, 4, 8, 16, 32]
    assert [model.num_kv_copies(degree) for degree in (1, 8, 16)] == [1, 1, 2]
    assert not known_model("facebook/opt-13b").allows_tensor_parallel(3)
    hybrid = known_model("Qwen/Qwen3.5-27B")  # 24 heads, 4 KV heads; of linear attention 16 key heads, 48 value heads
    assert [degree for degree in range(1, 25) if hybrid.allows_tensor_parallel(degree)] == [1, 2, 4, 8]


def test_a_multi_modal_config_is_read_by_its_text_part_and_fp8_weights_take_a_byte() -> None:
    plain = ModelSpec.from_config(LLAMA)
    spec = ModelSpec.from_config({"model_type": "any", "text_config": LLAMA})
    assert spec.num_parameters == plain.num_parameters
    quantized = ModelSpec.from_config({**LLAMA, "quantization_config": {"quant_method": "fp8"}})
    outside = 2 * plain.head_parameters + plain.extra_parameters  # stays in bfloat16
    assert quantized.weight_bytes == plain.num_parameters + outside
    assert quantized.kv_bytes_per_token == plain.kv_bytes_per_token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0 must be a whole number"),
        ({"vocab_size": "many"}, "vocab_size 'many' must be"),
        ({"dtype": "int3"}, "dtype 'int3' is not known"),
        ({"layer_types": ["mamba"] * 32}, "layer_types has 'mamba'; the planner knows full_attention"),
        ({"layer_types": ["full_attention"]}, "names 1 layers, num_hidden_layers is 32"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method 'awq' is not known"),
    ],
)
def test_a_bad_config_is_named_by_field_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_config({**LLAMA, **change})


def test_layers_may_be_named_as_older_configs_with_mamba_2_do() -> None:
    config = {"model_type": "granitemoehybrid", **SMALL, **GRANITE, "num_local_experts": 0}
    older = {**config, "layer_types": ["mamba", "mamba", "attention", "mamba"], "mamba_d_head": "auto"}
    assert ModelSpec.from_config(older) == ModelSpec.from_config(config)


def test_an_unknown_model_is_refused_with_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'llama-9' is not known.*meta-llama/Llama-3.1-8B, "):
        known_model("llama-9")
