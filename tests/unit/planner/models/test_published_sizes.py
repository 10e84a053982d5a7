"""Sizes from `config.json` alone, beside what the models' makers publish; the source of each figure stands by it."""

from dataclasses import dataclass
from typing import Any

import pytest

from baton.errors import ConfigError
from cluster.planner.models.known_models import CONFIGS, known_model
from cluster.planner.models.model_spec import ModelSpec

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Attributes:
    total, active: In billions, as many digits as are published; `tolerance` is half of the last one's unit.
    counts_input: Whether the active ones hold the embedding of the input (both do the output's).
    kv_bytes: Per token, by hand from the fields: layers, heads, size of a head.
    state_bytes: Per sequence, the same: float32 states and the convolutions' last inputs in bfloat16.
    checkpoint_gib: None: not published without draft layers.
    """

    total: float
    active: float
    tolerance: tuple[float, float]
    kv_bytes: int
    state_bytes: int = 0
    counts_input: bool = True
    checkpoint_gib: float | None = None


def _delta(layers: int, keys: int, values: int) -> int:
    """Gated delta rule with heads of 128 and a convolution over 4 tokens."""
    return layers * (values * 128 * 128 * 4 + (2 * keys + values) * 128 * 3 * 2)


PUBLISHED = {
    # DeepSeek-V3 technical report (arXiv 2412.19437), abstract: 671B total, 37B activated; R1 is built on it (arXiv
    # 2501.12948). 512 + 64 elements a layer (section 4.2), 61 layers. The Hub counts 14B more, for drafts.
    "deepseek-ai/DeepSeek-V3": Published(total=671, active=37, tolerance=(0.5, 0.6), kv_bytes=576 * 61 * 2),
    "deepseek-ai/DeepSeek-R1": Published(total=671, active=37, tolerance=(0.5, 0.6), kv_bytes=576 * 61 * 2),
    # Kimi K2 (arXiv 2507.20534), table 2: 1.04T total, 32.6B activated, 61 layers, 384 experts, 64 heads. It counts the
    # 1.04T with rounding upwards: the page on the Hub has 1T and 32B, its index of tensors 1.03T.
    "moonshotai/Kimi-K2-Instruct": Published(total=1030, active=32.6, tolerance=(15, 0.5), kv_bytes=576 * 61 * 2),
    # gpt-oss model card (arXiv 2508.10925), table 1: 116.83B and 5.13B, 20.91B and 3.61B, checkpoints of 60.8 and
    # 12.8 GiB; "unembedding parameters are counted towards active, but not embeddings". 8 KV heads of 64.
    "openai/gpt-oss-120b": Published(
        total=116.83,
        active=5.13,
        tolerance=(0.005, 0.005),
        kv_bytes=36 * 2 * 8 * 64 * 2,
        counts_input=False,
        checkpoint_gib=60.8,
    ),
    "openai/gpt-oss-20b": Published(
        total=20.91,
        active=3.61,
        tolerance=(0.005, 0.005),
        kv_bytes=24 * 2 * 8 * 64 * 2,
        counts_input=False,
        checkpoint_gib=12.8,
    ),
    # huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct: 80B in total and 3B activated, 12 of 48 layers with full
    # attention (2 KV heads of 256), the others with 16 and 32 linear heads of 128.
    "Qwen/Qwen3-Next-80B-A3B-Instruct": Published(
        total=80,
        active=3,
        tolerance=(0.5, 0.9),
        kv_bytes=12 * 2 * 2 * 256 * 2,
        state_bytes=_delta(36, 16, 32),
    ),
    # huggingface.co/Qwen/Qwen3.5-*: the names, "Number of Parameters" and "Hidden Layout" of the pages.
    "Qwen/Qwen3.5-9B": Published(
        total=9, active=9, tolerance=(0.5, 0.5), kv_bytes=8 * 2 * 4 * 256 * 2, state_bytes=_delta(24, 16, 32)
    ),
    "Qwen/Qwen3.5-27B": Published(
        total=27, active=27, tolerance=(0.5, 0.5), kv_bytes=16 * 2 * 4 * 256 * 2, state_bytes=_delta(48, 16, 48)
    ),
    "Qwen/Qwen3.5-35B-A3B": Published(
        total=35, active=3, tolerance=(0.5, 0.5), kv_bytes=10 * 2 * 2 * 256 * 2, state_bytes=_delta(30, 16, 32)
    ),
    "Qwen/Qwen3.5-122B-A10B": Published(
        total=122, active=10, tolerance=(0.5, 0.5), kv_bytes=12 * 2 * 2 * 256 * 2, state_bytes=_delta(36, 16, 64)
    ),
    "Qwen/Qwen3.5-397B-A17B": Published(
        total=397, active=17, tolerance=(1, 0.5), kv_bytes=15 * 2 * 2 * 256 * 2, state_bytes=_delta(45, 16, 64)
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_its_published_sizes(name: str) -> None:
    model, published = known_model(name), PUBLISHED[name]
    active = model.num_active_parameters - (0 if published.counts_input else model.head_parameters)
    assert model.num_parameters / 1e9 == pytest.approx(published.total, abs=published.tolerance[0])
    assert active / 1e9 == pytest.approx(published.active, abs=published.tolerance[1])
    assert model.kv_bytes_per_token == published.kv_bytes
    assert model.state_bytes == published.state_bytes
    if published.checkpoint_gib is not None:
        assert model.weight_bytes / (1 << 30) == pytest.approx(published.checkpoint_gib, abs=0.15)


def test_fp8_blocks_bring_a_scale_each_and_spare_embeddings_and_head() -> None:
    quantized = known_model("deepseek-ai/DeepSeek-V3")
    outside = 2 * quantized.head_parameters + quantized.extra_parameters
    inside = quantized.num_parameters - outside
    assert quantized.weight_bytes == pytest.approx(inside * (1 + 4 / 128**2) + 2 * outside, abs=2)


def test_every_rank_holds_a_whole_latent_vector() -> None:
    model = known_model("deepseek-ai/DeepSeek-V3")
    assert [model.num_kv_copies(degree) for degree in (1, 8, 16)] == [1, 8, 16]
    assert model.allows_tensor_parallel(8)
    assert not model.allows_tensor_parallel(3)


DEEPSEEK = CONFIGS["deepseek-ai/DeepSeek-V3"]
QWEN = CONFIGS["Qwen/Qwen3.5-35B-A3B"]


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (DEEPSEEK, {"index_head_dim": 128}, "index_head_dim 128 is not known to the planner and would change"),
        (DEEPSEEK, {"linear_attn_config": {"num_heads": 32}}, "linear_attn_config {'num_heads': 32} is not known"),
        (DEEPSEEK, {"mlp_layer_types": ["sparse", "wide"] * 31}, "mlp_layer_types has 'wide'"),
        (DEEPSEEK, {"moe_layer_freq": 0}, "moe_layer_freq 0 must be a whole number"),
        (DEEPSEEK, {"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq' is not known"),
        (DEEPSEEK, {"quantization_config": {**FP8, "weight_block_size": [128]}}, r"weight_block_size \[128\] must be"),
        (
            DEEPSEEK,
            {"quantization_config": {**FP8, "modules_to_not_convert": ["lm_head", "model.layers.3.mlp.up_proj"]}},
            r"modules_to_not_convert has 'model\.layers\.3\.mlp\.up_proj'",
        ),
        (QWEN, {"layer_types": ["linear_attention", "mamba2"] * 20}, "layer_types has 'mamba2'"),
        (QWEN, {"mamba_num_heads": 128}, "mamba_num_heads 128 is not known"),
        (QWEN, {"attn_type_list": [2] * 40, "full_attention_interval": None}, "attn_type_list has 2"),
        (QWEN, {"num_kv_shared_layers": 10}, "num_kv_shared_layers 10 is not known"),
    ],
)
def test_what_would_change_a_size_and_is_unknown_is_refused_by_name(
    config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_config({**config, **change})


def test_layers_for_drafts_and_groups_to_choose_experts_from_change_nothing() -> None:
    plain = ModelSpec.from_config(DEEPSEEK)
    assert ModelSpec.from_config({**DEEPSEEK, "num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1}) == plain


def test_parts_that_fp8_spares_are_passed_over_where_they_are_small_or_outside() -> None:
    spared = [
        "lm_head",
        "model.layers.0.mlp.gate",
        "model.layers.0.linear_attn.conv1d",
        "mtp.fc",
        "model.visual.blocks.0",
    ]
    model = ModelSpec.from_config({**DEEPSEEK, "quantization_config": {**FP8, "modules_to_not_convert": spared}})
    assert model.weights == known_model("deepseek-ai/DeepSeek-V3").weights
