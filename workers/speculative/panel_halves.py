"""What a half of a decoder layer does beside attention in one call of C, where its weights are panels.

Of few rows, which drafting mostly has: between products it is Python that takes the time, and a rank has half of the
products and all of that.
"""

import ctypes
from typing import Any, Self

import torch
from torch import Tensor

from workers.model.cpu.fused import LayerOfC, library
from workers.model.cpu.packed import FEW_ROWS, TwiceLinear
from workers.model.cpu.panels import PanelLinear

MANY_ROWS = 1 << 30


class PanelHalf:
    """
    Attributes:
        max_rows: Of more the caller's other products are faster.
    """

    def __init__(self, dtype: torch.dtype, max_rows: int, held: list[Any], fields: dict[str, Any]) -> None:
        self.max_rows = max_rows
        self._held = held  # the memory that is pointed to
        self._layer = LayerOfC(**fields, is_bf16=dtype == torch.bfloat16)
        self._at = ctypes.addressof(self._layer)
        self._library = library()

    @classmethod
    def of(cls, dtype: torch.dtype, linears: dict[str, Any], norm: dict[str, Tensor], **sizes: float) -> Self | None:
        """None: not all weights are panels, or there is no compiler.

        Args:
            linears, norm, sizes: By the names of `LayerOfC`.
        """
        few = {name: one.few if type(one) is TwiceLinear else one for name, one in linears.items()}
        if library() is None or not all(type(one) is PanelLinear for one in few.values()):
            return None
        biases = {f"{name}_bias": one.bias for name, one in few.items() if one.bias is not None}
        tensors = {**{name: one.panels for name, one in few.items()}, **biases, **norm}
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        max_rows = FEW_ROWS if few != linears else MANY_ROWS
        return cls(dtype, max_rows, list(tensors.values()), {**pointers, **sizes})

    def begin(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """[1, T, heads + 2 kv heads, dim] of x [1, T, width]; and the same without values, turned."""
        layer, tokens = self._layer, x.shape[1]
        turning = layer.num_heads + layer.num_kv_heads
        qkv = torch.empty((1, tokens, turning + layer.num_kv_heads, layer.head_dim), dtype=x.dtype)
        turned = torch.empty((1, tokens, turning, layer.head_dim), dtype=x.dtype)
        places = (one.data_ptr() for one in (x, cos, sin, qkv, turned))
        self._check(self._library.baton_layer_begin(self._at, *places, tokens, torch.get_num_threads()), tokens)
        return qkv, turned

    def mlp(self, x: Tensor) -> Tensor:
        """What the MLP finds in x, [1, T, width] both; x is contiguous."""
        out, tokens = torch.empty_like(x), x.shape[1]
        places = (x.data_ptr(), out.data_ptr())
        self._check(self._library.baton_layer_mlp(self._at, *places, tokens, 0, torch.get_num_threads()), tokens)
        return out

    @staticmethod
    def _check(failed: int, tokens: int) -> None:
        if failed:
            raise MemoryError(f"no memory for a layer's activations of {tokens} tokens")
