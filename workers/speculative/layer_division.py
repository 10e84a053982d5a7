"""What each rank of a layer-parallel gang holds of a draft model: the attention of its layers, and a part of the rest.

MLPs are divided by their width where that divides, and the output head by its rows, as tensor-parallel ranks have them:
attention alone is about a third of the weights, so that whole MLPs on every rank would leave little to gain. Norms and
the embedding are on every rank.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baton.errors import ConfigError
from workers.model.attention import Scoring
from workers.model.places import PLAIN
from workers.model.tensor_parallel.ranks import Ranks
from workers.speculative.layer_plan import NUM_ALONE, LayerPlan

# Tested token for token: that nothing happens between two layers is nowhere written down.
FAMILIES = frozenset({"gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"})
WIDTH = "intermediate_size"
SETTING = "layer_parallel"


class ByLayers:
    """Implements `workers.model.tensor_parallel.division.Division`."""

    name = SETTING
    place = PLAIN  # of its layers a rank keeps all heads

    def __init__(self, ranks: Ranks | None, group_size: int = 0) -> None:
        """`group_size`: 0: not said."""
        self._ranks = ranks
        self._rank, self._size = (ranks.rank, ranks.size) if ranks is not None else (0, 1)
        self._group_size = group_size

    def check(self, config: Any) -> None:
        name = config.model_type
        if name not in FAMILIES:
            raise ConfigError(
                f"{SETTING}: {self._size} is not supported for {name!r} models (those that are: "
                f"{', '.join(sorted(FAMILIES))}; none with experts or states); set {SETTING}: 1"
            )
        num_groupable = max(config.num_hidden_layers - NUM_ALONE, 0)
        for setting, value in ((SETTING, self._size), ("layer_group", self._group_size)):
            if value > max(num_groupable, 1):
                raise ConfigError(
                    f"{setting}: {value} is above the {num_groupable} layers that can attend at once of the draft "
                    f"model's {config.num_hidden_layers} (not the first and the last); set at most "
                    f"{max(num_groupable, 1)}, or give a draft model with more layers"
                )

    def local_config(self, config: Any) -> Any:
        local = copy.deepcopy(config)
        if getattr(config, WIDTH) % self._size == 0:
            setattr(local, WIDTH, getattr(config, WIDTH) // self._size)
        return local

    def leave_out(self, model: nn.Module) -> None:
        layers, held = layers_of(model), set(self.layers(len(layers_of(model))))
        for layer, module in enumerate(layers):
            if layer not in held:
                module.self_attn = Elsewhere(layer, module.self_attn, model.config)

    def layers(self, num_layers: int) -> Sequence[int]:
        return LayerPlan(num_layers=num_layers, num_ranks=self._size).owned(self._rank)


class Elsewhere(nn.Module):
    """In place of a layer's attention that another rank has; called alone while the model's shapes are found."""

    def __init__(self, layer: int, attention: Any, config: Any) -> None:
        super().__init__()
        self.layer_idx = layer
        self.shape = (config.num_attention_heads, config.num_key_value_heads, int(attention.head_dim))

    def forward(self, hidden_states: Tensor, *, step: Any, **_: Any) -> tuple[Tensor, None]:
        heads, kv_heads, dim = self.shape
        query, key = (torch.zeros(1, count, 1, dim, device=hidden_states.device) for count in (heads, kv_heads))
        step.attend(self.layer_idx, query, key, key, Scoring(1.0))
        return torch.zeros_like(hidden_states), None


def layers_of(model: Any) -> nn.ModuleList:
    """The decoder layers, in order."""
    layers: nn.ModuleList = model.base_model.layers
    return layers
