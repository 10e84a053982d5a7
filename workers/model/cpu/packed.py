"""Linear layers whose weight is laid out once in the order that a kernel reads.

That is ours (`panels`) where the weight is bfloat16 and the processor multiplies float32 faster, else oneDNN's.

`F.linear` gives oneDNN a plain weight, which it reorders or reads in strides on each call. Median of repeated runs on a
2-core Xeon with AMX, weights [2816, 1024] cold in cache, microseconds per layer, plain -> packed: bfloat16 1 row
398 -> 301, 16 rows 451 -> 302, 64 rows 658 -> 441, 512 rows 1912 -> 1550; float32 1 row 447 -> 517, 16 rows
1431 -> 794, 64 rows 2050 -> 1661, 512 rows 10113 -> 9627.

The two ops are private to torch (its own CPU compiler uses them); where they are missing, layers stay as they are.
"""

import functools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import fused, panels
from workers.model.cpu.panels import PanelLinear
from workers.model.fused_layers import MakeLinear
from workers.model.tensor_parallel.summed import like, plain_linear

logger = logging.getLogger(__name__)

ROWS_HINT = 64  # the layout chosen for this many rows was the best or within 3 % from 1 to 512 rows


FEW_ROWS = 4
MOST_BYTES_TWICE = 1 << 30  # of a model's weights, of which there may be two copies


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor and this torch hold packed weights of `dtype`."""
    ops = torch.ops.mkldnn
    if not (torch._C._has_mkldnn and hasattr(ops, "_reorder_linear_weight")):
        return False
    if not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on the CPU; holds the packed weight alone, which only oneDNN can read."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_HINT)
        self.bias = bias.detach() if bias is not None else None
        self._apply_linear = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._apply_linear(x, self.packed, self.bias, "none", [], "")
        return result

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x."""
        y += self(x)


class TwiceLinear(nn.Module):
    """Panels for few rows, oneDNN's order for more: the memory of float32 weights, for twice the speed at one row.

    On one core of a Xeon with AMX, weights [2816, 1024] cold in cache, microseconds by oneDNN and by panels: 1 row 1126
    and 606, 4 rows 758 and 550, 8 rows 779 and 956, 32 rows 983 and 2363.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.few = PanelLinear(weight, bias)
        self.many = PackedLinear(weight, bias)
        self.in_features, self.out_features = self.many.in_features, self.many.out_features

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._for(x)(x)
        return result

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x."""
        self._for(x).add_to(y, x)

    def _for(self, x: Tensor) -> PanelLinear | PackedLinear:
        return self.few if x.numel() <= FEW_ROWS * self.in_features else self.many


def can_hold(weight: Tensor) -> bool:
    return _in_panels(weight) or (weight.device.type == "cpu" and can_pack(weight.dtype))


def make_linear(
    weight: Tensor, bias: Tensor | None, *, twice: bool = False
) -> PanelLinear | PackedLinear | TwiceLinear:
    """The fastest kind for this weight and processor, see `can_hold`; `twice`: there is memory for two copies."""
    if _in_panels(weight):
        return PanelLinear(weight, bias)
    if twice and weight.dtype == torch.bfloat16 and panels.available():
        return TwiceLinear(weight, bias)
    return PackedLinear(weight, bias)


def _in_panels(weight: Tensor) -> bool:
    """Only where the processor has no bfloat16 products of its own, which are faster from 8 rows on."""
    has_products = weight.dtype == torch.bfloat16 and can_pack(torch.bfloat16)
    return not has_products and panels.available() and panels.fits(weight)


def _is_small(model: nn.Module) -> bool:
    linears = [module.weight for module in model.modules() if type(module) is nn.Linear]
    return sum(weight.nbytes for weight in linears) <= MOST_BYTES_TWICE


class PackedGatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up as one product.

    On a 2-core Xeon the two steps between, as one kernel, cost less than as parts of oneDNN's products (which would
    take them): 1.0 against 2.3 ms for 2,048 rows of 2,816.
    """

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: Any) -> None:
        """`down`: a linear layer, or one that is summed over ranks."""
        super().__init__()
        plain = plain_linear(down)
        bias = torch.cat([gate.bias, up.bias]) if gate.bias is not None else None
        self.gate_up_proj = make_linear(torch.cat([gate.weight, up.weight]), bias)
        self.down_proj = like(down, make_linear(plain.weight, plain.bias))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(cpu_elementwise.silu_mul(self.gate_up_proj(x)))
        return result


@torch.no_grad()
def pack_linears(model: nn.Module) -> None:
    """Replaces, in place, each plain `nn.Linear` on the CPU, and each gated MLP made of three of them.

    The plain weight is freed unless another module shares it (tied embeddings keep their table). Outputs differ from
    the original's by rounding alone; no gradients, and the state dict no longer holds the weights.
    """
    num_packed, twice = 0, _is_small(model)
    if cpu_elementwise.available():
        for name in [name for name, module in model.named_modules() if _is_gated_mlp(module)]:
            mlp = model.get_submodule(name)
            parts = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            _replace(model, name, PackedGatedMLP(*parts))  # type: ignore[arg-type]
            num_packed += len(parts)
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and can_hold(module.weight):
            _replace(model, name, make_linear(module.weight, module.bias, twice=twice))
            num_packed += 1
    logger.info("packed linear layers num_packed=%d", num_packed)


def fuse_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """See `workers.model.cpu.fused`; only where the weights can be held."""
    maker = linear_maker(model)
    if maker is not None:
        fused.fuse_layers(model, dtype, maker)


def linear_maker(model: nn.Module) -> MakeLinear | None:
    """`make_linear` as it suits the model; None: some of its weights cannot be held."""
    weights = [module.weight for module in model.modules() if type(module) is nn.Linear]
    return functools.partial(make_linear, twice=_is_small(model)) if all(map(can_hold, weights)) else None


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    new.train(False)
    setattr(model.get_submodule(parent), child, new)


def _is_gated_mlp(module: nn.Module) -> bool:
    """Whether `module` computes down(silu(gate(x)) * up(x)): by its parts, and by what it answers to random input."""
    parts = [plain_linear(getattr(module, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(type(part) is nn.Linear for part in parts) or len(list(module.parameters())) > 6:
        return False
    gate, up, down = parts
    assert isinstance(gate, nn.Linear)
    assert isinstance(up, nn.Linear)
    assert isinstance(down, nn.Linear)
    if not all(map(can_hold, (gate.weight, up.weight, down.weight))) or gate.in_features != down.out_features:
        return False
    if gate.weight.shape != up.weight.shape or (gate.bias is None) != (up.bias is None):
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, gate.in_features, generator=generator).to(gate.weight.dtype)
    expected = down(F.silu(gate(x)) * up(x))
    return bool(torch.equal(module(x), expected))
