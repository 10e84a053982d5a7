"""A decoder layer of the usual kind by kernels for the CPU: what is saved is Python between products, some 150 us per
layer and step, which is most of a small model's decode. See `workers.model.fused_layers`.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workers.model import fused_layers
from workers.model.attention import Scoring
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import native
from workers.model.cpu.panels import PanelLinear
from workers.model.fused_layers import LayerParts, MakeLinear


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


class FusedLayer(LayerParts):
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
        self.is_fused = True
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


def fuse_layers(model: nn.Module, dtype: torch.dtype, make_linear: MakeLinear) -> int:
    """See `fused_layers.fuse_layers`. `make_linear`: of a weight and a bias."""

    def make(layer: Any, scoring: Scoring, index: int) -> FusedLayer | PanelLayer:
        made = FusedLayer(layer, scoring, index, make_linear)
        has_panels = library() is not None and all(type(part) is PanelLinear for part in made.children())
        return PanelLayer(made, dtype) if has_panels else made

    return fused_layers.fuse_layers(model, dtype, make)
