"""Which weights are several of unlike meaning, one after the other along their outputs, and how large each one is.

Where heads are told apart first and what they are for second (MiniMax's and Qwen3-Next's projections, the gated queries
of Qwen3-Next and Qwen3.5), a contiguous piece is that of some heads, and the weight is one.
"""

from collections.abc import Callable, Mapping
from typing import Any

Sizes = Callable[[Any], tuple[int, ...]]  # of the parts, by the config of a model or of a share

HALVES = ("gate_up_proj", "gate_up_proj.weight", "shared_mlp.input_linear.weight")  # gate and up
ALTERNATING = frozenset({"gpt_oss"})  # where gate and up alternate, so that a contiguous piece has both


def _qkv(config: Any) -> tuple[int, ...]:
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_attention_heads * dim, *((config.num_key_value_heads * dim,) * 2)


def _delta_rule(config: Any) -> tuple[int, ...]:
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    return keys, keys, config.linear_num_value_heads * config.linear_value_head_dim


def _kimi_delta(config: Any) -> tuple[int, ...]:
    return (config.linear_num_heads * config.linear_head_dim,) * 3


def _mamba2(config: Any) -> tuple[int, ...]:
    """What is convolved: x, B, C."""
    groups = config.mamba_n_groups * config.mamba_d_state
    return config.mamba_n_heads * config.mamba_d_head, groups, groups


def _mamba2_inputs(config: Any) -> tuple[int, ...]:
    x, b, c = _mamba2(config)
    return x, x, b, c, config.mamba_n_heads  # the gate first, time steps last


MAMBA2: Mapping[str, Sizes] = {"mamba.in_proj": _mamba2_inputs, "mamba.conv1d": _mamba2}
DELTA_RULE: Mapping[str, Sizes] = {"linear_attn.in_proj_qkv": _delta_rule, "linear_attn.conv1d": _delta_rule}
FUSED: Mapping[str, Mapping[str, Sizes]] = {  # by family and the end of the module's name
    "bamba": MAMBA2,
    "granitemoehybrid": MAMBA2,
    "kimi_linear": {"self_attn.conv1d": _kimi_delta},
    "phi3": {"self_attn.qkv_proj": _qkv},
    "qwen3_5_moe_text": DELTA_RULE,
    "qwen3_5_text": DELTA_RULE,
    "qwen3_next": DELTA_RULE,
}


def parts_of(name: str, config: Any, local: Any, whole: int, mine: int) -> tuple[tuple[int, int], ...]:
    """(size in the whole, size in a share) of each part of a weight's outputs.

    Args:
        config, local: Of the model and of a share.
        whole, mine: Number of outputs in the model and in a share.
    """
    if name.endswith(HALVES) and config.model_type not in ALTERNATING:
        return ((whole // 2, mine // 2),) * 2
    module = name.rpartition(".")[0]
    for end, sizes in FUSED.get(config.model_type, {}).items():
        if module.endswith(end):
            return tuple(zip(sizes(config), sizes(local), strict=True))
    return ((whole, mine),)
