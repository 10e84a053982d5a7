"""How a model is split over the ranks of a gang: which degrees go, and the config of one rank's share.

Query heads, the heads of linear attention and the width of every MLP (of every expert, too) are divided by the degree.
KV heads are as well, and Mamba-2's groups of heads (those that share B and C); where there are fewer of them than
ranks, each is held by several ranks. The rest is whole on every rank, but for the output head, whose rows are divided.
So the config of a share is the model's own with fewer heads and less width, and transformers' code makes a share of it
as it makes the whole.
"""

import copy
from fractions import Fraction
from typing import Any

from baton.errors import ConfigError

# Tested token for token at several degrees: how a family's weights are fused is nowhere written down.
FAMILIES = frozenset(
    {
        "bamba",
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "granitemoehybrid",
        "kimi_linear",
        "llama",
        "minimax",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_moe",
        "qwen3_next",
    }
)
WIDTHS = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
)
LINEAR_HEADS = ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "mamba_n_heads")
GROUPS = "mamba_n_groups"


def check_degree(config: Any, degree: int) -> None:
    """Raises: ConfigError: the model cannot be split over `degree` ranks; names what does not divide."""
    if degree == 1:
        return
    name = config.model_type
    if name not in FAMILIES:
        raise ConfigError(
            f"tensor_parallel: {degree} is not supported for {name!r} models (those that are: "
            f"{', '.join(sorted(FAMILIES))}); set tensor_parallel: 1"
        )
    good = [one for one in range(1, config.num_attention_heads + 1) if not _obstacles(config, one)]
    obstacles = _obstacles(config, degree)
    if obstacles:
        raise ConfigError(
            f"tensor_parallel: {degree} does not divide {' and '.join(obstacles)} of the {name!r} model; set one of "
            f"{', '.join(map(str, good))}"
        )


def _obstacles(config: Any, degree: int) -> list[str]:
    heads, kv_heads = config.num_attention_heads, num_kv_heads(config)
    found = []
    if heads % degree:
        found.append(f"the {heads} attention heads")
    if kv_heads % degree and degree % kv_heads:
        found.append(f"the {kv_heads} KV heads (nor they it)")
    groups = num_groups(config)
    if groups % degree and degree % groups:
        found.append(f"the {GROUPS} {groups} (nor they it)")
    names = _given(config, (*LINEAR_HEADS, *WIDTHS))
    return found + [f"the {name} {getattr(config, name)}" for name in names if getattr(config, name) % degree]


def num_kv_heads(config: Any) -> int:
    """Of the whole model."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def num_groups(config: Any) -> int:
    """Of Mamba-2's heads, in the whole model; 1 where there are none."""
    return int(getattr(config, GROUPS, None) or 1)


def num_holders(config: Any, degree: int) -> int:
    """How many ranks hold each KV head: 1, or more where there are fewer heads than ranks."""
    return max(1, degree // num_kv_heads(config))


def local_config(config: Any, degree: int) -> Any:
    """Of one rank's share; `config` is left as it is. Call `check_degree` before."""
    local = copy.deepcopy(config)
    local.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    local.num_attention_heads = config.num_attention_heads // degree
    local.num_key_value_heads = max(1, num_kv_heads(config) // degree)
    for name in _given(config, (*LINEAR_HEADS, *WIDTHS)):
        setattr(local, name, getattr(config, name) // degree)
    if _given(config, (GROUPS,)):
        setattr(local, GROUPS, max(1, num_groups(config) // degree))
        # The width of all heads is made of this; the field's type is a whole number, which a share's need not be.
        local.__dict__["mamba_expand"] = Fraction(config.mamba_expand, degree)
    return local


def _given(config: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if isinstance(getattr(config, name, None), int)]
