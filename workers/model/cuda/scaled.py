"""Linear layers on a GPU whose weights stay at 8 bits: few rows are multiplied by a kernel that dequantizes tiles in
registers, so that a decode reads half the bytes; for many, the weight is dequantized right before torch's product.

Both round each weight to the model's dtype as a checkpoint that is dequantized at load has it: answers differ from that
one's by the order of sums alone.
"""

import functools
import logging
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.model import fp8
from workers.model.cuda import fp8_support
from workers.model.cuda.launching import has_triton, power_of_2, reason_of
from workers.model.fused_layers import close
from workers.model.quantized.scaled_linear import ScaledLinear
from workers.model.quantized.scaled_weight import ScaledWeight

logger = logging.getLogger(__name__)

MOST_ROWS = 256  # above, reading a dequantized weight again costs less than dequantizing tiles again
MOST_BLOCK_ROWS = 64
LEAST_BLOCK_INPUTS = 16
LEAST_CAPABILITY = {fp8.DTYPE: fp8_support.CAPABILITY, torch.int8: (8, 0)}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def can_keep(values: torch.dtype, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether weights stored as `values` may stay so on such a GPU, in a model of `dtype`."""
    least = LEAST_CAPABILITY.get(values)
    return has_triton() and dtype in DTYPES and least is not None and capability >= least


class Tiling(NamedTuple):
    outputs: int
    rows: int
    inputs: int


def tiling(rows: int, weight: ScaledWeight, num_processors: int) -> Tiling | None:
    """The largest tiles that leave none of `num_processors` without work; None: scales change within a tile."""
    outputs, inputs = weight.shape
    block_inputs = 128
    while weight.column_span < inputs and weight.column_span % block_inputs:
        block_inputs //= 2
    if block_inputs < LEAST_BLOCK_INPUTS:
        return None
    block_rows = min(MOST_BLOCK_ROWS, max(16, power_of_2(rows)))
    num_tiles = -(-rows // block_rows)
    for block_outputs in (128, 64, 32):
        if -(-outputs // block_outputs) * num_tiles >= num_processors:
            return Tiling(block_outputs, block_rows, block_inputs)
    return Tiling(16, block_rows, block_inputs)


class GPUScaledLinear(nn.Module):
    """A linear layer that may add its answer to what is there, as `workers.model.cuda.fused.AddingLinear`."""

    def __init__(self, weight: ScaledWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias.detach() if bias is not None else None
        self._num_processors = _num_processors(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        chosen = self._tiling(rows)
        if chosen is None:
            return F.linear(x, dequantized(self.weight, x.dtype), self.bias)
        y = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype, device=x.device)
        self._multiply(rows, y.view(-1, self.out_features), chosen, adds=False)
        return y

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x; y is contiguous."""
        rows, sums = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
        chosen = self._tiling(rows)
        if chosen is not None:
            self._multiply(rows, sums, chosen, adds=True)
            return
        sums.addmm_(rows, dequantized(self.weight, x.dtype).t())
        if self.bias is not None:
            y += self.bias

    def _tiling(self, rows: Tensor) -> Tiling | None:
        return tiling(len(rows), self.weight, self._num_processors) if len(rows) <= MOST_ROWS else None

    def _multiply(self, x: Tensor, y: Tensor, chosen: Tiling, *, adds: bool) -> None:
        from workers.model.cuda.kernels import scaled as kernels

        weight = self.weight
        grid = (-(-self.out_features // chosen.outputs), -(-len(x) // chosen.rows))
        kernels.multiply[grid](
            x,
            weight.values,
            weight.scales,
            self.bias if self.bias is not None else x,
            y,
            len(x),
            self.out_features,
            self.in_features,
            x.stride(0),
            y.stride(0),
            weight.values.stride(0),
            weight.scales.stride(0),
            weight.row_span,
            weight.column_span,
            HAS_BIAS=self.bias is not None,
            ADDS=adds,
            IS_EVEN=self.in_features % chosen.inputs == 0,
            BLOCK_N=chosen.outputs,
            BLOCK_M=chosen.rows,
            BLOCK_K=chosen.inputs,
            PRECISION="ieee",
            num_warps=8 if chosen.outputs == 128 else 4,
            num_stages=4 if x.element_size() == 2 else 2,
        )


def dequantized(weight: ScaledWeight, dtype: torch.dtype) -> Tensor:
    """As `ScaledWeight.dequantized`, in one pass."""
    from workers.model.cuda.kernels import scaled as kernels

    outputs, inputs = weight.shape
    out = torch.empty(outputs, inputs, dtype=dtype, device=weight.device)
    kernels.dequantize[(-(-outputs // 16), -(-inputs // 128))](
        weight.values,
        weight.scales,
        out,
        outputs,
        inputs,
        inputs,
        weight.scales.stride(0),
        weight.row_span,
        weight.column_span,
        IS_EVEN=inputs % 128 == 0,
        BLOCK_N=16,
        BLOCK_K=128,
        num_warps=4,
    )
    return out


def replace(model: nn.Module) -> None:
    """Puts the kernels in the place of every layer whose weight stays as it is stored.

    Where one cannot be compiled, or is wrong on a trial, the layer goes on to dequantize its weight for each product.
    """
    tried: dict[Any, bool] = {}
    for name, module in list(model.named_modules()):
        if type(module) is not ScaledLinear:
            continue
        weight = module.weight
        kind = (weight.shape, weight.row_span, weight.column_span, module.bias is None)
        if kind not in tried:
            tried[kind] = _answers_alike(module)
        if tried[kind]:
            parent, _, child = name.rpartition(".")
            made = GPUScaledLinear(weight, module.bias)
            setattr(model.get_submodule(parent), child, made.train(False))


@torch.inference_mode()
def _answers_alike(layer: ScaledLinear) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, layer.in_features, generator=generator).to(layer.weight.device, layer.dtype)
    try:
        found = GPUScaledLinear(layer.weight, layer.bias)(x)
    except Exception as error:  # of a compiler, say
        logger.warning("weights of 8 bits are dequantized for each product error=%s", reason_of(error))
        return False
    is_alike = close(found, layer(x))
    if not is_alike:
        logger.warning(
            "weights of 8 bits are dequantized for each product: the kernel is wrong shape=%s", layer.weight.shape
        )
    return is_alike


@functools.cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
