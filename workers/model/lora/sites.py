"""Where in a runner's model a layer of transformers' is computed: by itself, or in one that several became."""

from typing import Any, NamedTuple

from torch import nn

from workers.model.cpu.fused import PanelLayer
from workers.model.cpu.packed import PackedGatedMLP
from workers.model.fused_layers import LayerParts
from workers.model.lora.adapted import AdaptedLinear
from workers.model.lora.mix import Mix
from workers.model.tensor_parallel.summed import SummedLinear


class Site(NamedTuple):
    """Attribute `name` of `owner`, and the first of its outputs that is the layer's."""

    owner: Any
    name: str
    first_output: int

    def adapted(self, mix: Mix) -> AdaptedLinear:
        """The layer there, made one that takes adapters."""
        inner = getattr(self.owner, self.name)
        if isinstance(inner, AdaptedLinear):
            return inner
        made = AdaptedLinear(inner, mix)
        setattr(self.owner, self.name, made.train(False))
        return made


def find_site(model: nn.Module, name: str, mix: Mix) -> Site:
    """`name`: as transformers has it; a model whose layers were fused or packed still answers to it."""
    at: Any = model
    parts = name.split(".")
    for index, part in enumerate(parts):
        if isinstance(at, PanelLayer):
            at.mix = mix
            at = at.fused
        if isinstance(at, LayerParts):
            return _in_layer(at, ".".join(parts[index:]))
        if isinstance(at, PackedGatedMLP):
            return _in_mlp(at, part)
        if index == len(parts) - 1:
            return _summed(at, part, 0)
        at = getattr(at, part)
    raise AssertionError(f"{name} is no layer of the model")


def _in_layer(layer: LayerParts, name: str) -> Site:
    query, key = (count * layer.head_dim for count in (layer.num_heads, layer.num_kv_heads))
    places = {
        "self_attn.q_proj": ("qkv", 0),
        "self_attn.k_proj": ("qkv", query),
        "self_attn.v_proj": ("qkv", query + key),
        "self_attn.o_proj": ("output", 0),
        "mlp.gate_proj": ("gate_up", 0),
        "mlp.up_proj": ("gate_up", layer.gate_up.out_features // 2),
        "mlp.down_proj": ("down", 0),
    }
    return _summed(layer, *places[name])


def _in_mlp(mlp: PackedGatedMLP, name: str) -> Site:
    half = mlp.gate_up_proj.out_features // 2
    places = {"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", half), "down_proj": ("down_proj", 0)}
    return _summed(mlp, *places[name])


def _summed(owner: Any, name: str, first_output: int) -> Site:
    """Of what is added up over ranks, this rank's part."""
    layer = getattr(owner, name)
    return Site(layer, "inner", first_output) if isinstance(layer, SummedLinear) else Site(owner, name, first_output)
