"""How much dearer a prompt's later tokens are, for pieces that take all ranks the same time."""

from typing import Any

# Of a floating-point operation of attention, in those of products with weights: 0.37 TFLOP/s of a core's tiles (see
# `workers.model.cpu.attention`) against some 0.7 of the products of a 156 M-parameter model; Xeon (Sapphire Rapids).
ATTENTION_COST = 2.0


def attention_growth(config: Any) -> float:
    """The `growth` of `cut_prompt`: what a key before a token costs it, in the costs of its products with weights.

    Layers with a window or a state count for nothing: there tokens cost the same wherever they are.
    """
    heads, hidden = config.num_attention_heads, config.hidden_size
    dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    products = 2 * hidden * ((2 * heads + 2 * kv_heads) * dim + 3 * _width(config))
    return ATTENTION_COST * float(heads * dim / products) * 4 * _unwindowed(config)


def _width(config: Any) -> int:
    """Of a feed-forward layer, as far as a token goes through it."""
    experts = getattr(config, "num_experts_per_tok", None)
    inner = getattr(config, "moe_intermediate_size", None) if experts else None
    inner = inner or getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(inner * (experts or 1))


def _unwindowed(config: Any) -> float:
    """The share of the layers whose tokens see all keys before them."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if kinds:
        return sum(kind in ("full_attention", "attention") for kind in kinds) / len(kinds)
    return 0.0 if getattr(config, "sliding_window", None) else 1.0
