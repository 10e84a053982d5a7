"""RMS norm, rotary embedding and the writing of KV rows in one pass each, in place of a model's own chains of ops.

Which modules and functions may be replaced is found by trying: a norm, or a rotary function, is replaced only if it
gives the kernel's numbers on random input. Everything else stays the library's.
"""

import ctypes
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workers.model.cpu import native

DTYPES = (torch.bfloat16, torch.float32)
ROTARY = "apply_rotary_pos_emb"  # its name in the modules of transformers' models
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
INT, POINTER = ctypes.c_int64, ctypes.c_void_p


@functools.cache
def _library() -> Any:
    library: Any = native.load("elementwise")
    if library is not None:
        tail = (ctypes.c_int32, ctypes.c_int32)
        library.baton_rms_norm.argtypes = (POINTER, POINTER, POINTER, INT, INT, ctypes.c_float, *tail)
        library.baton_rotary.argtypes = (POINTER, INT, INT, POINTER, POINTER, POINTER, INT, INT, INT, *tail)
        library.baton_write_kv.argtypes = (POINTER, INT, INT, POINTER, INT, INT, *[POINTER] * 3, *[INT] * 3, tail[1])
        library.baton_silu_mul.argtypes = (POINTER, POINTER, INT, INT, *tail)
        for name in ("baton_rms_norm", "baton_rotary", "baton_write_kv", "baton_silu_mul"):
            getattr(library, name).restype = None
    return library


def available() -> bool:
    """Whether the kernels are there; compiles them on the first call."""
    return _library() is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`weight` is float32 and contiguous, of x's last dimension."""
    x = x.contiguous()
    out = torch.empty_like(x)
    width = weight.shape[0]
    _library().baton_rms_norm(
        x.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
        x.numel() // width,
        width,
        eps,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q, k: [1, heads, T, dim]; cos, sin: [1, T, dim], contiguous."""
    return rotated(q, cos, sin), rotated(k, cos, sin)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [1, heads, T, dim]; cos, sin: [1, T, dim], contiguous."""
    _, heads, tokens, dim = x.shape
    if x.stride(3) != 1:
        x = x.contiguous()
    out = torch.empty(1, tokens, heads, dim, dtype=x.dtype)
    _library().baton_rotary(
        x.data_ptr(),
        x.stride(2),
        x.stride(1),
        cos.data_ptr(),
        sin.data_ptr(),
        out.data_ptr(),
        tokens,
        heads,
        dim,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out.transpose(1, 2)


def write_kv(key: Tensor, value: Tensor, k_rows: Tensor, v_rows: Tensor, slots: Tensor) -> None:
    """key, value: [1, heads, T, dim]; k_rows, v_rows: [num_slots, heads, dim], contiguous; slots: [T] int64."""
    if key.stride(3) != 1:
        key = key.contiguous()
    if value.stride(3) != 1:
        value = value.contiguous()
    size = key.element_size()
    _library().baton_write_kv(
        key.data_ptr(),
        key.stride(2) * size,
        key.stride(1) * size,
        value.data_ptr(),
        value.stride(2) * size,
        value.stride(1) * size,
        k_rows.data_ptr(),
        v_rows.data_ptr(),
        slots.data_ptr(),
        key.shape[2],
        key.shape[1],
        key.shape[3] * size,
        torch.get_num_threads(),
    )


def silu_mul(x: Tensor) -> Tensor:
    """[..., width] from [..., 2 * width], contiguous: the silu of the first half times the second."""
    width = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], width), dtype=x.dtype)
    _library().baton_silu_mul(
        x.data_ptr(),
        out.data_ptr(),
        out.numel() // width,
        width,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


@torch.inference_mode()
def replace(model: nn.Module, dtype: torch.dtype) -> int:
    """Replaces what can be in `model`, for inference alone.

    Returns:
        How many modules were changed.
    """
    changed = 0
    for module in model.modules():
        forward = _norm(module, dtype) or _with_rotary(module, dtype)
        if forward is not None:
            module.__dict__["forward"] = forward
            changed += 1
    return changed


def _norm(module: nn.Module, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """The kernel's forward of an RMS norm that scales by its weight, or by one more than it."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = getattr(module, "weight", None)
    name = type(module).__name__
    if "RMSNorm" not in name or "Gated" in name or not isinstance(eps, float) or not isinstance(weight, Tensor):
        return None
    sample = _random(2, weight.shape[0], dtype)
    wanted = module(sample)
    for scale in (weight.float(), weight.float() + 1):
        scale = scale.contiguous().clone()
        if wanted.dtype == dtype and _close(rms_norm(sample, scale, eps), wanted):
            return functools.partial(rms_norm, weight=scale, eps=eps)
    return None


def _with_rotary(module: nn.Module, dtype: torch.dtype) -> Callable[..., Any] | None:
    """The module's own forward with its rotary function bound to the kernel, where that computes the same."""
    function = inspect.unwrap(type(module).forward)  # without what renames outdated arguments: none is passed here
    if not isinstance(function, types.FunctionType) or ROTARY not in function.__code__.co_names:
        return None
    dim = getattr(module, "head_dim", None)
    original = function.__globals__.get(ROTARY)
    if not isinstance(dim, int) or dim % 2 or original is None or not _is_rotary(original, dim, dtype):
        return None
    rebound = types.FunctionType(
        function.__code__,
        {**function.__globals__, ROTARY: _checked_rotary(original)},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    return types.MethodType(rebound, module)


def _checked_rotary(original: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel for what it was tried on; `original` for angles of another shape or dtype."""

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        is_tried = cos.shape[-1] == q.shape[-1] and cos.dtype == q.dtype and not args and not kwargs
        if is_tried and cos.is_contiguous() and sin.is_contiguous():
            return rotary(q, k, cos, sin)
        return original(q, k, cos, sin, *args, **kwargs)

    return apply


@functools.cache
def _is_rotary(original: Callable[..., Any], dim: int, dtype: torch.dtype) -> bool:
    q, k = _random(6, dim, dtype).view(1, 3, 2, dim), _random(2, dim, dtype).view(1, 1, 2, dim)
    cos, sin = _random(2, dim, dtype)[None].cos(), _random(2, dim, dtype)[None].sin()
    try:
        wanted = original(q, k, cos, sin)
    except (RuntimeError, TypeError, ValueError):  # angles of another shape, or more arguments
        return False
    found = rotary(q, k, cos, sin)
    return all(a.shape == b.shape and a.dtype == b.dtype and _close(a, b) for a, b in zip(found, wanted, strict=True))


def _random(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(dtype)


def _close(found: Tensor, wanted: Tensor) -> bool:
    tolerance = TOLERANCES[found.dtype]
    return torch.allclose(found.float(), wanted.float(), rtol=tolerance, atol=tolerance)
