"""Decoder layers of the usual kind as a few calls, in place of a dozen modules and their chains of ops.

    x += output(attend(rotate(query, key, value of norm(x)))); x += down(silu(gate) * up of norm(x))

Query, key and value are one product, gate and up another. Whether a layer is of this kind is found by trying: one that
answers random input otherwise keeps its own code. How the calls are made is a processor's own: `cpu.fused` and
`cuda.fused`.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workers.model.attention import Scoring
from workers.model.quantized import scaled_weight
from workers.model.quantized.scaled_linear import ScaledLinear
from workers.model.quantized.scaled_weight import ScaledWeight
from workers.model.tensor_parallel.summed import like, plain_linear

logger = logging.getLogger(__name__)

NORMS = ("input_layernorm", "post_attention_layernorm")
HEADS = ("q_proj", "k_proj", "v_proj")
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
Projection = Any  # a module with `add_to(y, x)`, as workers.model.cpu.panels.PanelLinear and packed.PackedLinear
MakeLinear = Callable[[Any, Tensor | None], Projection]  # of what `joined` gives
# Of a layer, how it scores its keys, and its number; None: it is none for these kernels
Make = Callable[[Any, Scoring, int], nn.Module | None]


class Layers(nn.ModuleList):
    """A list whose slice of everything is itself: models take one each step, and a new list of 30 layers costs 1 ms."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.indices(len(self)) == (0, len(self), 1):
            return self
        return super().__getitem__(index)


class Recorder:
    """A step that notes what attention was asked, and answers what it was given."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer  # [1, T, heads, head_dim]
        self.seen: tuple[int, Tensor, Tensor, Tensor, Scoring] | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        self.seen = (layer, query, key, value, scoring)
        return self.answer


class LayerParts(nn.Module):
    """Weights and numbers of one layer, whose `forward` takes hidden states [1, T, width], changes and returns them."""

    def __init__(self, layer: Any, scoring: Scoring, index: int, make_linear: MakeLinear) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.index = index
        self.scoring = scoring
        self.head_dim: int = attention.head_dim
        parts = [getattr(attention, name) for name in HEADS]
        self.num_heads, self.num_kv_heads, _ = (part.out_features // self.head_dim for part in parts)
        self.qkv = make_linear(*joined(parts))
        self.output = like(attention.o_proj, make_linear(*joined([plain_linear(attention.o_proj)])))
        self.gate_up = make_linear(*joined([mlp.gate_proj, mlp.up_proj]))
        self.down = like(mlp.down_proj, make_linear(*joined([plain_linear(mlp.down_proj)])))
        first, second = (getattr(layer, name) for name in NORMS)
        self.norm, self.eps = first.weight.detach().float().contiguous(), float(first.variance_epsilon)
        self.mlp_norm, self.mlp_eps = second.weight.detach().float().contiguous(), float(second.variance_epsilon)
        if hasattr(layer, "attention_type"):  # some models choose the layer's mask by it
            self.attention_type = layer.attention_type
        self.is_fused = True


@torch.inference_mode()
def fuse_layers(
    model: nn.Module,
    dtype: torch.dtype,
    make: Make,
    *,
    recorder: type["Recorder"] | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> int:
    """Replaces, in place, each decoder layer of the usual kind, whose linear layers are plain ones still.

    Args:
        recorder: Of what the new layer asks of attention.
        on_error: Told of what goes wrong with one, which keeps its own code then; None: nothing may.

    Returns:
        How many layers were replaced.
    """
    num_fused = 0
    for name in [name for name, module in model.named_modules() if hasattr(module, "self_attn")]:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        try:
            fused = _fused(getattr(owner, child), dtype, make, recorder or Recorder)  # its owner alone keeps the layer
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        if fused is not None:
            setattr(owner, child, fused.train(False))
            num_fused += 1
    for name, module in list(model.named_modules()):
        if type(module) is nn.ModuleList and len(module) and all(getattr(layer, "is_fused", False) for layer in module):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Layers(module))
    logger.info("fused layers num_fused=%d", num_fused)
    return num_fused


def _fused(layer: nn.Module, dtype: torch.dtype, make: Make, recorder: type["Recorder"]) -> nn.Module | None:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    linears = [plain_linear(getattr(attention, name, None)) for name in (*HEADS, "o_proj")]
    linears += [plain_linear(getattr(mlp, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
    norms = [getattr(layer, name, None) for name in NORMS]
    if {type(linear) for linear in linears} not in ({nn.Linear}, {ScaledLinear}) or not _go_together(linears):
        return None
    if not all(isinstance(getattr(norm, "variance_epsilon", None), float) for norm in norms):
        return None
    if not isinstance(getattr(attention, "head_dim", None), int) or len(list(layer.children())) != 4:
        return None
    if turned_share(attention) != 1.0:
        return None
    assert isinstance(attention, nn.Module)
    width, dim = linears[0].in_features, int(attention.head_dim)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    device = linears[0].weight.device
    x = torch.randn(1, 3, width, generator=generator).to(device, dtype)
    angles = torch.randn(1, 3, dim, generator=generator).to(device)
    cos_sin = (angles.cos().to(dtype), angles.sin().to(dtype))
    answer = torch.randn(1, 3, linears[3].in_features // dim, dim, generator=generator).to(device, dtype)
    wanted, found = Recorder(answer), recorder(answer)
    try:
        expected = layer(x.clone(), position_embeddings=cos_sin, step=wanted)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # a layer that is called in another way
        return None
    if wanted.seen is None or not isinstance(expected, Tensor):
        return None
    fused = make(layer, wanted.seen[4], wanted.seen[0])
    if fused is None:
        return None
    ours = fused(x.clone(), position_embeddings=cos_sin, step=found)
    assert found.seen is not None
    pairs = [(ours, expected), *zip(found.seen[1:4], wanted.seen[1:4], strict=True)]
    return fused if all(close(a, b) for a, b in pairs) else None


def turned_share(attention: Any) -> float:
    """Of a head's dimensions, those that rotary embedding turns: what random angles for all of them cannot tell."""
    config = getattr(attention, "config", None)
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in rope.values() if isinstance(one, dict)]  # by kind of layer
    found = [one.get("partial_rotary_factor") for one in (rope, *nested)] + [
        getattr(config, "partial_rotary_factor", None)
    ]
    return min((float(share) for share in found if share is not None), default=1.0)


def joined(parts: list[Any]) -> tuple[Tensor | ScaledWeight, Tensor | None]:
    """One weight, and one bias or none, of several layers' outputs after each other."""
    if type(parts[0]) is ScaledLinear:
        weight: Any = scaled_weight.joined([part.weight for part in parts]) if len(parts) > 1 else parts[0].weight
    else:
        weight = torch.cat([part.weight for part in parts]) if len(parts) > 1 else parts[0].weight
    given = [part.bias for part in parts if part.bias is not None]
    if not given:
        return weight, None
    zeros = [torch.zeros(part.out_features, dtype=given[0].dtype, device=weight.device) for part in parts]
    return weight, torch.cat([z if part.bias is None else part.bias for part, z in zip(parts, zeros, strict=True)])


def _go_together(linears: list[Any]) -> bool:
    """Whether weights that are to become one can: of several that stay as they are stored, the scales may not."""
    query, key, value, _, gate, up, _ = linears
    together = ((query, key, value), (gate, up))
    return type(query) is not ScaledLinear or all(
        scaled_weight.are_alike([linear.weight for linear in parts]) for parts in together
    )


def close(found: Tensor, wanted: Tensor) -> bool:
    """By the largest value: single ones may cancel out."""
    scale = float(wanted.abs().max())
    error = float((found.float() - wanted.float()).abs().max()) if found.shape == wanted.shape else float("inf")
    return error <= TOLERANCES.get(wanted.dtype, TOLERANCES[torch.bfloat16]) * scale
