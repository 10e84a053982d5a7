"""Reads a Hub `config.json` into layers: the field names and the parameter layouts of the model families.

Layouts are those of `transformers`; a test compares the counts with models that the library makes.
"""

from collections.abc import Mapping
from typing import Any

from baton.errors import ConfigError
from cluster.planner.models.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec

Config = Mapping[str, Any]

UNGATED = frozenset({"opt", "phi", "starcoder2", "nemotron"})  # two matrices in a feed-forward layer, not three
WITH_QKV_BIAS = frozenset({"qwen2", "qwen2_moe"})
WITH_HEAD_NORMS = frozenset({"qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "gemma3_text", "gemma3"})
WITH_OUTPUT_GATE = frozenset({"qwen3_next", "qwen3_5"})
WITH_FOUR_NORMS = frozenset({"gemma2", "gemma3_text", "gemma3"})
ALWAYS_TIED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "opt"})
SAME_LAYERS = {"qwen3_5_text": "qwen3_5", "qwen3_5_moe": "qwen3_5", "qwen3_5_moe_text": "qwen3_5"}
LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
HUB_LAYER_TYPES = {"mamba": "linear_attention", "attention": "full_attention"}  # as configs with Mamba-2 have them


def whole(config: Config, *names: str, default: int | None = None) -> int:
    """The first of these fields that the config sets, a whole number >= 1."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"config.json: {name} {value!r} must be a whole number, 1 or more")
        return value
    if default is None:
        raise ConfigError(f"config.json lacks {names[0]}; give the config.json of a decoder-only model")
    return default


def model_type(config: Config) -> str:
    name = str(config.get("model_type", "llama"))
    return SAME_LAYERS.get(name, name)


def is_latent(config: Config) -> bool:
    """Whether attention keeps one compressed vector per token, whatever the heads."""
    return config.get("kv_lora_rank") is not None


def is_tied(config: Config) -> bool:
    """Whether the output head is the embedding; what the family does where the config does not say."""
    return bool(config.get("tie_word_embeddings", model_type(config) in ALWAYS_TIED))


def layers_of(config: Config) -> tuple[LayerSpec, ...]:
    kinds = _layer_types(config)
    return tuple(
        LayerSpec(attention=_attention(config, kind), feed_forward=_feed_forward(config, index))
        for index, kind in enumerate(kinds)
    )


def _layer_types(config: Config) -> list[str]:
    num_layers = whole(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is not None and has_mamba(config):
        kinds = [HUB_LAYER_TYPES.get(str(kind), kind) for kind in kinds]
    if kinds is None:
        return [_implied_type(config, index) for index in range(num_layers)]
    unknown = sorted(set(map(str, kinds)) - set(LAYER_TYPES))
    if unknown:
        raise ConfigError(f"config.json: layer_types has {unknown[0]!r}; the planner knows {', '.join(LAYER_TYPES)}")
    if len(kinds) != num_layers:
        raise ConfigError(f"config.json: layer_types names {len(kinds)} layers, num_hidden_layers is {num_layers}")
    return list(kinds)


def has_mamba(config: Config) -> bool:
    """Whether its linear layers are Mamba-2's."""
    return config.get("mamba_n_heads") is not None


def _implied_type(config: Config, index: int) -> str:
    if has_mamba(config):  # Bamba names those that attend
        return "full_attention" if index in (config.get("attn_layer_indices") or ()) else "linear_attention"
    if (interval := config.get("full_attention_interval")) is not None:
        return "linear_attention" if (index + 1) % interval else "full_attention"
    if (kinds := config.get("attn_type_list")) is not None:  # MiniMax: 1 is softmax attention
        if kinds[index] not in (0, 1):
            raise ConfigError(f"config.json: attn_type_list has {kinds[index]!r}; the planner knows 0 and 1")
        return "full_attention" if kinds[index] else "linear_attention"
    if model_type(config) == "gpt_oss":
        return "full_attention" if index % 2 else "sliding_attention"
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return "full_attention"
    if model_type(config) in ("gemma2", "gemma3", "gemma3_text"):
        pattern = whole(config, "sliding_window_pattern", default=2 if model_type(config) == "gemma2" else 6)
        return "sliding_attention" if (index + 1) % pattern else "full_attention"
    if "max_window_layers" in config:
        return "sliding_attention" if index >= config["max_window_layers"] else "full_attention"
    return "sliding_attention"


def _attention(config: Config, kind: str) -> AttentionSpec:
    if kind == "linear_attention" and has_mamba(config):
        return _mamba2(config)
    if kind == "linear_attention":
        return _delta_rule(config) if "linear_num_value_heads" in config else _lightning(config)
    if is_latent(config):
        return _latent(config)
    hidden, family = whole(config, "hidden_size"), model_type(config)
    num_heads = whole(config, "num_attention_heads")
    num_kv_heads = whole(config, "num_key_value_heads", default=num_heads)
    head_dim = whole(config, "head_dim", default=hidden // num_heads)
    q_dim, kv_dim = num_heads * head_dim, num_kv_heads * head_dim
    gate_dim = q_dim if family in WITH_OUTPUT_GATE or config.get("attn_output_gate") else 0
    num_parameters = hidden * (2 * q_dim + gate_dim + 2 * kv_dim)
    if config.get("attention_bias") or family == "opt":
        num_parameters += q_dim + 2 * kv_dim + hidden
    elif family in WITH_QKV_BIAS:
        num_parameters += q_dim + 2 * kv_dim
    if family in WITH_HEAD_NORMS:
        num_parameters += 2 * head_dim
    if family == "gpt_oss":
        num_parameters += num_heads  # attention sinks
    return AttentionSpec(
        num_parameters=num_parameters + _norms(config),
        kv_elements=2 * kv_dim,
        pair_flops=4 * q_dim,
        decode_pair_flops=4 * q_dim,
        window=whole(config, "sliding_window") if kind == "sliding_attention" else None,
    )


def _norms(config: Config) -> int:
    hidden = whole(config, "hidden_size")
    if model_type(config) == "opt":
        return 4 * hidden  # two, each with a bias
    return (4 if model_type(config) in WITH_FOUR_NORMS else 2) * hidden


def _latent(config: Config) -> AttentionSpec:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed vector per token is kept."""
    hidden, num_heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    rank, rope_dim = whole(config, "kv_lora_rank"), whole(config, "qk_rope_head_dim")
    nope_dim, value_dim = whole(config, "qk_nope_head_dim"), whole(config, "v_head_dim")
    q_dim = num_heads * (nope_dim + rope_dim)
    q_rank = config.get("q_lora_rank")
    query = hidden * q_rank + q_rank + q_rank * q_dim if q_rank else hidden * q_dim
    key_value = hidden * (rank + rope_dim) + rank + rank * num_heads * (nope_dim + value_dim)
    return AttentionSpec(
        num_parameters=query + key_value + num_heads * value_dim * hidden + _norms(config),
        kv_elements=rank + rope_dim,
        pair_flops=2 * num_heads * (nope_dim + rope_dim + value_dim),
        decode_pair_flops=2 * num_heads * (2 * rank + rope_dim),
    )


def _delta_rule(config: Config) -> AttentionSpec:
    """Gated delta rule as in Qwen3-Next: state of [value heads, key dim, value dim] and a short convolution."""
    hidden = whole(config, "hidden_size")
    num_keys, num_values = whole(config, "linear_num_key_heads"), whole(config, "linear_num_value_heads")
    key_dim, value_dim = whole(config, "linear_key_head_dim"), whole(config, "linear_value_head_dim")
    kernel = whole(config, "linear_conv_kernel_dim")
    keys, values = num_keys * key_dim, num_values * value_dim
    conv = 2 * keys + values
    projections = hidden * (2 * keys + 2 * values + 2 * num_values) + values * hidden
    state = num_values * key_dim * value_dim
    return AttentionSpec(
        num_parameters=projections + conv * kernel + 2 * num_values + value_dim + _norms(config),
        state_elements=state,
        conv_elements=conv * (kernel - 1),  # its last inputs: the newest one comes with the token
        recurrence_flops=7 * state,  # decay; read and subtract; outer product and add; read by the query
    )


def _lightning(config: Config) -> AttentionSpec:
    """Lightning attention as in MiniMax-Text-01: state of [heads, head dim, head dim], with an output gate."""
    hidden, num_heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    head_dim = whole(config, "head_dim", default=hidden // num_heads)
    inner, state = num_heads * head_dim, num_heads * head_dim * head_dim
    return AttentionSpec(
        num_parameters=5 * hidden * inner + inner + _norms(config),
        state_elements=state,
        recurrence_flops=5 * state,  # decay; outer product and add; read by the query
    )


def _mamba2(config: Config) -> AttentionSpec:
    """Mamba-2 as in Bamba: state of [heads, head dim, state dim]; a short convolution of inner channels and groups."""
    hidden, num_heads = whole(config, "hidden_size"), whole(config, "mamba_n_heads")
    inner = whole(config, "mamba_expand", default=2) * hidden
    state_dim, kernel = whole(config, "mamba_d_state"), whole(config, "mamba_d_conv", default=4)
    conv = inner + 2 * whole(config, "mamba_n_groups", default=1) * state_dim
    projected = inner + conv + num_heads
    num_parameters = hidden * (projected + inner) + conv * kernel + 3 * num_heads + inner  # gated norm's
    if config.get("mamba_conv_bias", True):
        num_parameters += conv
    if config.get("mamba_proj_bias"):
        num_parameters += projected + hidden
    return AttentionSpec(
        num_parameters=num_parameters + _norms(config),
        state_elements=inner * state_dim,
        conv_elements=conv * (kernel - 1),
        recurrence_flops=5 * inner * state_dim,  # decay; outer product and add; read by the query
    )


def _feed_forward(config: Config, index: int) -> FeedForwardSpec:
    if model_type(config) == "granitemoehybrid":
        return _beside_shared(config)
    hidden = whole(config, "hidden_size")
    num_experts = whole(config, "num_experts", "num_local_experts", "n_routed_experts", default=0)
    if num_experts and not _is_dense(config, index):
        return _experts(config, num_experts)
    inner = whole(config, "intermediate_size", "ffn_dim")
    gated = model_type(config) not in UNGATED
    num_parameters = (3 if gated else 2) * hidden * inner
    if model_type(config) == "opt":
        num_parameters += inner + hidden
    elif config.get("mlp_bias"):
        num_parameters += 2 * inner + hidden
    return FeedForwardSpec(num_parameters=num_parameters)


def _beside_shared(config: Config) -> FeedForwardSpec:
    """Granite's: a layer that every token meets, and experts beside it, if there are any."""
    hidden, num_experts = whole(config, "hidden_size"), config.get("num_local_experts") or 0
    shared = 3 * hidden * whole(config, "shared_intermediate_size")
    if not num_experts:
        return FeedForwardSpec(num_parameters=shared)
    return FeedForwardSpec(
        num_parameters=shared + hidden * num_experts,
        num_experts=num_experts,
        num_experts_per_token=whole(config, "num_experts_per_tok"),
        expert_parameters=3 * hidden * whole(config, "intermediate_size"),
    )


def _is_dense(config: Config, index: int) -> bool:
    kinds = config.get("mlp_layer_types")
    if kinds is not None:
        if kinds[index] not in ("dense", "sparse"):
            raise ConfigError(f"config.json: mlp_layer_types has {kinds[index]!r}; the planner knows dense and sparse")
        return bool(kinds[index] == "dense")
    return (
        index in (config.get("mlp_only_layers") or ())
        or (index + 1) % whole(config, "decoder_sparse_step", default=1) != 0
        or index < (config.get("first_k_dense_replace") or 0)
        or index % whole(config, "moe_layer_freq", default=1) != 0
    )


def _experts(config: Config, num_experts: int) -> FeedForwardSpec:
    hidden = whole(config, "hidden_size")
    inner = whole(config, "moe_intermediate_size", "intermediate_size")
    expert, every = 3 * hidden * inner, hidden * num_experts
    if model_type(config) == "gpt_oss":
        expert, every = expert + 2 * inner + hidden, every + num_experts
    if shared := config.get("shared_expert_intermediate_size"):
        every += 3 * hidden * shared + hidden  # with a gate
    every += 3 * hidden * inner * (config.get("n_shared_experts") or 0)
    return FeedForwardSpec(
        num_parameters=every,
        num_experts=num_experts,
        num_experts_per_token=whole(config, "num_experts_per_tok"),
        expert_parameters=expert,
    )
