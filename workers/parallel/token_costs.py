"""What a prompt's tokens cost, by where they are, for pieces that take all ranks the same time."""

from collections.abc import Iterable
from typing import Any

import torch

from workers.model.hybrid.mixer import Mixer
from workers.model.linear.chunks import CHUNK
from workers.parallel.pieces import TokenCosts

# Of a floating-point operation of attention, in those of products with weights: 0.37 TFLOP/s of a core's tiles (see
# `workers.model.cpu.attention`) against some 0.7 of the products of a 156 M-parameter model; Xeon (Sapphire Rapids).
ATTENTION_COST = 2.0
# The same of a recurrence, and of finding a piece's effect: float32 whatever the weights are. One core of a Xeon
# (Sapphire Rapids), a gated delta rule of 8 heads of 128 beside weights 1,024 wide: `python -m bench.sequence_costs`.
RECURRENCE_COST = {torch.float32: 3.0, torch.bfloat16: 9.0}
EFFECT_COST = {torch.float32: 2.0, torch.bfloat16: 6.0}


def token_costs(config: Any, mixers: Iterable[Mixer], dtype: torch.dtype) -> TokenCosts:
    """The same on every rank.

    Args:
        mixers: Those of the model's layers of linear attention.
        dtype: Of the weights.
    """
    kind = dtype if dtype in RECURRENCE_COST else torch.bfloat16
    each = list(mixers)
    recurring = RECURRENCE_COST[kind] * sum(map(_recurrence, each)) / config.num_hidden_layers
    other = EFFECT_COST[kind] * sum(map(_effect, each)) / config.num_hidden_layers  # what the first rank is spared
    whole = _products(config) + recurring + other
    return TokenCosts(growth=_attention(config) / whole, first_cost=1 - other / whole)


def _recurrence(mixer: Mixer) -> float:
    """Operations of a layer per token, as `workers.model.linear.chunks` does them."""
    part = mixer.shape.parts[0]
    d_k, d_v = part.shape
    carried = 4 * d_k * d_v  # from chunk to chunk, and into the outputs
    inside = 2 * CHUNK * (d_k + d_v)
    if mixer.is_delta:
        carried, inside = carried + 2 * d_k * d_v, 2 * inside + 2 * CHUNK * d_k + CHUNK * CHUNK
    return float(part.num_heads * (carried + inside))


def _effect(mixer: Mixer) -> float:
    """More on a rank that does not know the state before its piece. Without a delta rule next to nothing."""
    part = mixer.shape.parts[0]
    d_k, d_v = part.shape
    return float(part.num_heads * 4 * d_k * (d_k + d_v)) if mixer.is_delta else 0.0


def _attention(config: Any) -> float:
    """Of a key before a token, on average over the layers, in operations of products with weights.

    Layers with a window or a state count for nothing: there tokens cost the same wherever they are.
    """
    return ATTENTION_COST * 4 * int(config.num_attention_heads) * _head_dim(config) * _unwindowed(config)


def _products(config: Any) -> float:
    """With a layer's weights, per token, as if all layers attended."""
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    return 2.0 * int(config.hidden_size) * ((2 * heads + 2 * kv_heads) * _head_dim(config) + 3 * _width(config))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


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
