"""One decoder layer of the usual kind as a few calls, in place of a dozen modules and their chains of ops.

    x += output(attend(rotate(query, key, value of norm(x)))); x += down(silu(gate) * up of norm(x))

Query, key and value are one product, gate and up another. Whether a layer is of this kind is found by trying: one that
answers random input otherwise keeps its own code. What is saved is Python between products, some 150 us per layer and
step, which is most of a small model's decode.
"""

import ctypes
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workers.model.attention import Scoring
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import native
from workers.model.cpu.panels import PanelLinear
from workers.model.tensor_parallel.summed import like, plain_linear

logger = logging.getLogger(__name__)

NORMS = ("input_layernorm", "post_attention_layernorm")
HEADS = ("q_proj", "k_proj", "v_proj")
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
Projection = Any  # a module with `add_to(y, x)`, as workers.model.cpu.panels.PanelLinear and packed.PackedLinear
MakeLinear = Callable[[Tensor, Tensor | None], Projection]


class Mix(Protocol):
    """Of the adapters of a step, see `workers.model.lora.mix`."""

    @property
    def parts(self) -> Sequence[Any]:
        """Empty: no row has one."""
        ...


class LayerOfC(ctypes.Structure):
    """`baton_layer` of layer.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("norm", "mlp_norm", "qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("qkv_bias", "output_bias", "gate_up_bias", "down_bias")),
        *((name, ctypes.c_int64) for name in ("width", "inner", "num_heads", "num_kv_heads", "head_dim")),
        *((name, ctypes.c_float) for name in ("eps", "mlp_eps")),
        ("is_bf16", ctypes.c_int32),
    )


@functools.cache
def library() -> Any:
    """None: there is no compiler."""
    found: Any = native.load("layer")
    if found is not None:
        pointer, tail = ctypes.c_void_p, (ctypes.c_int64, ctypes.c_int32)
        found.baton_layer_begin.argtypes = (*[pointer] * 6, *tail)
        found.baton_layer_mlp.argtypes = (*[pointer] * 3, *tail, tail[1])
        found.baton_layer_end.argtypes = (*[pointer] * 3, *tail)
    return found


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


class FusedLayer(nn.Module):
    """Takes hidden states [1, T, width], which it changes in place and returns."""

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

    def forward(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], step: Any, **_: Any
    ) -> Tensor:
        x = hidden_states.contiguous()
        cos, sin = position_embeddings
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv(cpu_elementwise.rms_norm(x, self.norm, self.eps))
        by_head = qkv.view(1, x.shape[1], heads + 2 * kv_heads, self.head_dim).transpose(1, 2)
        turned = cpu_elementwise.rotated(by_head[:, : heads + kv_heads], cos, sin)
        value = by_head[:, heads + kv_heads :]
        found = step.attend(self.index, turned[:, :heads], turned[:, heads:], value, self.scoring)
        self.output.add_to(x, found.flatten(2))
        gate_up = self.gate_up(cpu_elementwise.rms_norm(x, self.mlp_norm, self.mlp_eps))
        self.down.add_to(x, cpu_elementwise.silu_mul(gate_up))
        return x


class PanelLayer(nn.Module):
    """The same in two calls and attention, where all weights are panels."""

    def __init__(self, fused: FusedLayer, dtype: torch.dtype) -> None:
        super().__init__()
        self.fused = fused  # holds the memory that `_layer` points to
        self.index, self.scoring = fused.index, fused.scoring
        self.num_heads, self.num_kv_heads, self.head_dim = fused.num_heads, fused.num_kv_heads, fused.head_dim
        if hasattr(fused, "attention_type"):
            self.attention_type = fused.attention_type
        linears = {name: getattr(fused, name) for name in ("qkv", "output", "gate_up", "down")}
        biases = {f"{name}_bias": linear.bias for name, linear in linears.items() if linear.bias is not None}
        self._layer = LayerOfC(
            norm=fused.norm.data_ptr(),
            mlp_norm=fused.mlp_norm.data_ptr(),
            **{name: linear.panels.data_ptr() for name, linear in linears.items()},
            **{name: bias.data_ptr() for name, bias in biases.items()},
            width=fused.qkv.in_features,
            inner=fused.down.in_features,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            eps=fused.eps,
            mlp_eps=fused.mlp_eps,
            is_bf16=dtype == torch.bfloat16,
        )
        self._address = ctypes.addressof(self._layer)
        self.mix: Mix | None = None  # of adapters; None: no one has any for this layer
        self._begin, self._end = library().baton_layer_begin, library().baton_layer_end

    def forward(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], step: Any, **_: Any
    ) -> Tensor:
        if self.mix is not None and self.mix.parts:  # C knows nothing of them
            fused: Tensor = self.fused(hidden_states, position_embeddings=position_embeddings, step=step)
            return fused
        x = hidden_states.contiguous()
        cos, sin = (angles.contiguous() for angles in position_embeddings)
        heads, turning, tokens = self.num_heads, self.num_heads + self.num_kv_heads, x.shape[1]
        threads = torch.get_num_threads()
        qkv = torch.empty((1, tokens, turning + self.num_kv_heads, self.head_dim), dtype=x.dtype)
        turned = torch.empty((1, tokens, turning, self.head_dim), dtype=x.dtype)
        failed = self._begin(
            self._address,
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            qkv.data_ptr(),
            turned.data_ptr(),
            tokens,
            threads,
        )
        query, key = turned.transpose(1, 2).split_with_sizes((heads, self.num_kv_heads), 1)
        found = step.attend(self.index, query, key, qkv[:, :, turning:].transpose(1, 2), self.scoring).contiguous()
        failed |= self._end(self._address, found.data_ptr(), x.data_ptr(), tokens, threads)
        if failed:
            raise MemoryError(f"no memory for a layer's activations of {tokens} tokens")
        return x


@torch.inference_mode()
def fuse_layers(model: nn.Module, dtype: torch.dtype, make_linear: MakeLinear) -> int:
    """Replaces, in place, each decoder layer of the usual kind, whose linear layers are plain ones still.

    Args:
        make_linear: Of a weight and a bias.
    Returns:
        How many layers were replaced.
    """
    num_fused = 0
    for name, layer in list(model.named_modules()):
        fused = _fused(layer, dtype, make_linear)
        if fused is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, fused.train(False))
            num_fused += 1
    for name, module in list(model.named_modules()):
        if (
            type(module) is nn.ModuleList
            and len(module)
            and all(type(layer) in (FusedLayer, PanelLayer) for layer in module)
        ):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Layers(module))
    logger.info("fused layers num_fused=%d", num_fused)
    return num_fused


def _fused(layer: nn.Module, dtype: torch.dtype, make_linear: MakeLinear) -> FusedLayer | PanelLayer | None:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    linears = [plain_linear(getattr(attention, name, None)) for name in (*HEADS, "o_proj")]
    linears += [plain_linear(getattr(mlp, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
    norms = [getattr(layer, name, None) for name in NORMS]
    if not all(type(linear) is nn.Linear for linear in linears):
        return None
    if not all(isinstance(getattr(norm, "variance_epsilon", None), float) for norm in norms):
        return None
    if not isinstance(getattr(attention, "head_dim", None), int) or len(list(layer.children())) != 4:
        return None
    assert isinstance(attention, nn.Module)
    width, dim = linears[0].in_features, int(attention.head_dim)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, width, generator=generator).to(dtype)
    angles = torch.randn(1, 3, dim, generator=generator)
    cos_sin = (angles.cos().to(dtype), angles.sin().to(dtype))
    answer = torch.randn(1, 3, linears[3].in_features // dim, dim, generator=generator).to(dtype)
    wanted, found = Recorder(answer), Recorder(answer)
    try:
        expected = layer(x.clone(), position_embeddings=cos_sin, step=wanted)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # a layer that is called in another way
        return None
    if wanted.seen is None or not isinstance(expected, Tensor):
        return None
    made = FusedLayer(layer, wanted.seen[4], wanted.seen[0], make_linear)
    has_panels = library() is not None and all(type(part) is PanelLinear for part in made.children())
    fused = PanelLayer(made, dtype) if has_panels else made
    ours = fused(x.clone(), position_embeddings=cos_sin, step=found)
    assert found.seen is not None
    pairs = [(ours, expected), *zip(found.seen[1:4], wanted.seen[1:4], strict=True)]
    return fused if all(close(a, b) for a, b in pairs) else None


def joined(parts: list[Any]) -> tuple[Tensor, Tensor | None]:
    """One weight, and one bias or none, of several layers' outputs after each other."""
    weight = torch.cat([part.weight for part in parts])
    if all(part.bias is None for part in parts):
        return weight, None
    zeros = [torch.zeros(part.out_features, dtype=weight.dtype) for part in parts]
    return weight, torch.cat([z if part.bias is None else part.bias for part, z in zip(parts, zeros, strict=True)])


def close(found: Tensor, wanted: Tensor) -> bool:
    """By the largest value: single ones may cancel out."""
    scale = float(wanted.abs().max())
    error = float((found.float() - wanted.float()).abs().max()) if found.shape == wanted.shape else float("inf")
    return error <= TOLERANCES[wanted.dtype] * scale
