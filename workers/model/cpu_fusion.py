"""Replaces, on the CPU, steps that model code writes as chains of torch ops by one C call each.

An op of torch costs 1.5 to 5 us before it computes, and a chain passes over its rows once per op: at one token the
chains are a fifth of a small model's step, at 512 tokens they cost as much as attention. What is replaced is found by
answering random input as the formula would, not by class name, so a model with another formula keeps its own code.
"""

import ctypes
import functools
import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workers.model import native

logger = logging.getLogger(__name__)

DTYPES = (torch.bfloat16, torch.float32)
_POINTER, _SIZE, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = native.load("cpu_ops")
    if library is not None:
        library.baton_rms_norm.argtypes = [*[_POINTER] * 3, *[_SIZE] * 3, _FLOAT, _INT, _INT]
        library.baton_rms_norm.restype = None
        library.baton_rotate.argtypes = [*[_POINTER] * 4, *[_SIZE] * 8, _INT, _INT]
        library.baton_rotate.restype = None
    return library


class FusedRMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + epsilon), computed in float32 and rounded once."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        library = _library()
        assert library is not None, "fused ops without their library: ask available() first"
        self.weight = weight
        self.variance_epsilon = epsilon
        self._kernel = library.baton_rms_norm
        self._is_bf16 = weight.dtype == torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if x.dtype != weight.dtype:
            raise TypeError(f"norm of {x.dtype} with a weight of {weight.dtype}")
        if not x.is_contiguous():
            x = x.contiguous()
        width = weight.shape[0]
        result = torch.empty_like(x)
        self._kernel(
            x.data_ptr(),
            weight.data_ptr(),
            result.data_ptr(),
            x.numel() // width,
            width,
            width,
            self.variance_epsilon,
            self._is_bf16,
            torch.get_num_threads(),
        )
        return result


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Rotary position embedding of packed tokens, in place; the signature is that of transformers' function.

    Args:
        q, k: [1, heads, T, head_dim], any strides but for the last.
        cos, sin: [1, T, head_dim].
    """
    library = _library()
    if (
        library is None
        or unsqueeze_dim != 1
        or q.shape[0] != 1
        or cos.shape[-1] != q.shape[-1]
        or not (q.dtype == k.dtype == cos.dtype == sin.dtype)
        or q.stride(3) != 1
        or k.stride(3) != 1
    ):
        return _rotate_in_torch(q, k, cos, sin, unsqueeze_dim)
    cos, sin = cos.contiguous(), sin.contiguous()
    library.baton_rotate(
        q.data_ptr(),
        k.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        q.shape[2],
        q.shape[1],
        k.shape[1],
        q.shape[3],
        q.stride(2),
        q.stride(1),
        k.stride(2),
        k.stride(1),
        q.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return q, k


def _rotate_in_torch(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turned(x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-high, low), dim=-1) * sin

    return turned(q), turned(k)


def available() -> bool:
    return _library() is not None


@torch.no_grad()
def fuse(model: nn.Module) -> None:
    """Replaces RMS norms and rotary embeddings of `model` in place, where they are those of Llama. For inference only.

    Does nothing where `available()` is False.
    """
    if not available():
        return
    num_norms = num_rotaries = 0
    for name, module in list(model.named_modules()):
        epsilon = _epsilon_of(module)
        if epsilon is not None:
            parent, _, child = name.rpartition(".")
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            setattr(model.get_submodule(parent), child, FusedRMSNorm(weight, epsilon))
            num_norms += 1
        elif _rotates_as_llama(module):
            _bind_rotary(module)
            num_rotaries += 1
    logger.info("fused layers num_norms=%d num_rotaries=%d", num_norms, num_rotaries)


def _epsilon_of(module: nn.Module) -> float | None:
    """Of an RMS norm over the last dimension; None for anything else."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, nn.Parameter) or not isinstance(epsilon, float) or weight.dim() != 1:
        return None
    if weight.dtype not in DTYPES or weight.device.type != "cpu" or "Norm" not in type(module).__name__:
        return None
    if len(list(module.parameters())) != 1 or type(module) is FusedRMSNorm:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[0], generator=generator).to(weight.dtype)
    # a weight of its own, since one of all ones (or zeros) would not show how it enters
    original = weight.data
    weight.data = torch.rand(weight.shape, generator=generator).to(weight.dtype) + 0.5
    try:
        found = module(x)
        expected = FusedRMSNorm(weight, epsilon)(x)
    finally:
        weight.data = original
    tolerance = 1e-6 if weight.dtype == torch.float32 else 1e-2
    return epsilon if torch.allclose(found, expected, rtol=tolerance, atol=tolerance) else None


def _rotary_of(module: nn.Module) -> Callable[..., Any] | None:
    forward = getattr(type(module), "forward", None)
    if not isinstance(forward, types.FunctionType) or "apply_rotary_pos_emb" not in forward.__code__.co_names:
        return None
    return forward.__globals__.get("apply_rotary_pos_emb")


def _rotates_as_llama(module: nn.Module) -> bool:
    original = _rotary_of(module)
    if original is None:
        return False
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 3, 8, generator=generator)
    k = torch.randn(1, 1, 3, 8, generator=generator)
    cos, sin = torch.randn(2, 1, 3, 8, generator=generator)
    try:
        found = original(q, k, cos, sin)
    except (RuntimeError, TypeError, ValueError, IndexError):  # another signature, or other shapes: another formula
        return False
    expected = _rotate_in_torch(q, k, cos, sin, 1)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def _bind_rotary(module: nn.Module) -> None:
    """Gives `module` its class's own forward, in which the one name means `rotate`; other models are not touched."""
    forward = type(module).forward
    assert isinstance(forward, types.FunctionType)
    own = types.FunctionType(
        forward.__code__,
        {**forward.__globals__, "apply_rotary_pos_emb": rotate},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    module.forward = types.MethodType(own, module)
