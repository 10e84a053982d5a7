"""Ties transformers' attention layers to the paged attention.

One function is registered in transformers' attention interface; models pass it the keyword argument `step`, which the
caller of the model gave. A `Probe` as step learns the layers' shapes, a `workers.model.runner.Step` computes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baton.errors import ConfigError
from workers.model.attention import Scoring
from workers.model.hybrid.families import MIXERS, take_over
from workers.model.hybrid.mixer import Recurrence
from workers.model.kv_store import LayerShape, Shape
from workers.model.state_shape import StateShape

ATTENTION = "baton_paged"
# What models hand through to attention and what does not change it.
HARMLESS = frozenset({"position_ids", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits"})
WIDER_KEYS = frozenset({"KimiLinearAttention"})  # of all layers, few have them: values are stored as wide as keys


class AttentionStep(Protocol):
    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
    ) -> Tensor:
        """Query, key, value and result are [1, heads, T, head_dim] but for the result: [1, T, heads, head_dim]."""
        ...


def register() -> None:
    """Makes `attn_implementation=ATTENTION` known to transformers; no mask is built for it. Idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, forward)


def forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    step: AttentionStep | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The signature is that of transformers' attention functions."""
    if step is None:
        raise ConfigError(f"model: {type(module).__name__} does not hand keyword arguments on; give another model")
    if type(step) is Probe:
        step.check(module, key, value, attention_mask, others)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: int = module.layer_idx  # type: ignore[assignment]
    scoring = Scoring(scale, sliding_window, softcap, s_aux)
    width, key_width = value.shape[-1], key.shape[-1]
    if width == key_width:
        return step.attend(layer, query, key, value, scoring), None
    widened = F.pad(value, (0, key_width - width))  # blocks hold keys and values of one size
    return step.attend(layer, query, key, widened, scoring)[..., :width], None


class Probe:
    """Sees one token go through the model; attends to nothing, and keeps nothing.

    Args:
        states: Of the layers of linear attention, by layer.
    """

    def __init__(self, states: Mapping[int, StateShape]) -> None:
        self.shapes: list[Shape] = []
        self._states = states

    def check(
        self, module: nn.Module, key: Tensor, value: Tensor, attention_mask: Tensor | None, others: dict[str, Any]
    ) -> None:
        name = type(module).__name__
        if attention_mask is not None:
            raise ConfigError(f"model: {name} builds an attention mask of its own, which would be lost")
        if key.shape != value.shape and name not in WIDER_KEYS:
            raise ConfigError(f"model: {name} has keys of {key.shape[-1]} and values of {value.shape[-1]} dimensions")
        if not getattr(module, "is_causal", True):
            raise ConfigError(f"model: {name} attends in both directions; give a decoder-only model")
        unknown = sorted(key for key, value in others.items() if value is not None and key not in HARMLESS)
        if unknown:
            raise ConfigError(f"model: {name} asks attention for {', '.join(unknown)}, which it does not do here")
        if getattr(module, "layer_idx", None) != len(self.shapes):
            raise ConfigError(f"model: {name} is not called once per layer, in order")

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
    ) -> Tensor:
        self.shapes.append(LayerShape(num_kv_heads=key.shape[1], head_dim=key.shape[3]))
        return torch.zeros_like(query).transpose(1, 2)

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        return x

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        if layer != len(self.shapes):
            raise ConfigError(f"model: layer {layer} of linear attention is not called once, in order")
        self.shapes.append(self._states[layer])
        return torch.zeros_like(recurrence.v)


@torch.inference_mode()
def probe(model: nn.Module, device: torch.device) -> Sequence[Shape]:
    """Takes over the layers of linear attention, and runs one token through `model`.

    Returns:
        What each layer keeps: the KV of tokens, or a state.
    Raises:
        ConfigError: Some layer keeps its state elsewhere, or asks for what the paged attention does not do.
    """
    seen = Probe(take_over(model))
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    model(input_ids=token, position_ids=token, use_cache=False, step=seen)
    num_layers = int(model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    if len(seen.shapes) != num_layers:
        raise ConfigError(
            f"model: {type(model).__name__} has {num_layers} layers, {len(seen.shapes)} of which go through "
            f"transformers' attention interface or are linear attention as in {', '.join(sorted(MIXERS))}; give a "
            "model whose layers all do"
        )
    return tuple(seen.shapes)
