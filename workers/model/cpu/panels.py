"""Linear layers whose weight is kept in bfloat16 and widened in the product, whatever the dtype of the activations.

A step of few rows waits for its weights, and bfloat16 is half of them; sums are in float32. It loses nothing where the
weights are bfloat16 already, which `fits` tells. Serves processors without bfloat16 products, and float32 everywhere.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor, nn

from workers.model.cpu import native

INT, POINTER = ctypes.c_int64, ctypes.c_void_p


@functools.cache
def _library() -> Any:
    library: Any = native.load("linear")
    if library is not None:
        library.baton_linear_size.argtypes = (INT, INT)
        library.baton_linear_size.restype = INT
        library.baton_linear_pack.argtypes = (POINTER, POINTER, INT, INT, ctypes.c_int32)
        library.baton_linear_pack.restype = None
        library.baton_linear.argtypes = (*[POINTER] * 4, *[INT] * 3, *[ctypes.c_int32] * 3)
        library.baton_linear.restype = ctypes.c_int
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


def fits(weight: Tensor) -> bool:
    """Whether `weight` is on the CPU and each of its values is one of bfloat16."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    return weight.dtype == torch.bfloat16 or torch.equal(weight.bfloat16().float(), weight)


class PanelLinear(nn.Module):
    """`nn.Linear` for inference on the CPU, where `available()` and `fits(weight)`.

    Holds the weight once, in an order of its own. A row's outputs are the same whatever rows are beside it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        plain = weight.detach().bfloat16().contiguous()
        library = _library()
        size = library.baton_linear_size(self.out_features, self.in_features)
        self.panels = torch.empty(size, dtype=torch.bfloat16)
        threads = torch.get_num_threads()
        library.baton_linear_pack(plain.data_ptr(), self.panels.data_ptr(), *weight.shape, threads)
        self.bias = bias.detach().float().contiguous() if bias is not None else None
        self._product = library.baton_linear

    def forward(self, x: Tensor) -> Tensor:
        y = torch.empty((*x.shape[:-1], self.out_features), dtype=x.dtype)
        self._compute(x, y, adds=False)
        return y

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x, rounded once; y is contiguous."""
        self._compute(x, y, adds=True)

    def _compute(self, x: Tensor, y: Tensor, adds: bool) -> None:
        x = x.contiguous()
        failed = self._product(
            x.data_ptr(),
            self.panels.data_ptr(),
            self.bias.data_ptr() if self.bias is not None else None,
            y.data_ptr(),
            x.numel() // self.in_features,
            self.in_features,
            self.out_features,
            x.dtype == torch.bfloat16,
            adds,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError(f"no memory for {x.numel()} activations in float32")
