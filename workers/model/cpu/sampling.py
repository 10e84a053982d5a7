"""The sampler's draw on the CPU in one pass, where torch takes twenty over a vocabulary."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.model.cpu import native


@functools.cache
def _library() -> Any:
    library: Any = native.load("sampling")
    if library is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        library.baton_draw.argtypes = (*[pointer] * 4, size, size, ctypes.c_int32)
        library.baton_draw.restype = None
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


def draw(scaled: Tensor, keys: Sequence[tuple[int, int]], floors: Tensor | None) -> Tensor:
    """The first largest of each row's logits and their Gumbel noise.

    Args:
        scaled: [rows, vocab] float32 on the CPU, 0 at most, divided by temperature.
        keys: Of each row's noise, two int32.
        floors: [rows, 1]: least logit that takes part; None: all do.
    Returns:
        [rows] int64 token ids.
    """
    rows, vocab = scaled.shape
    scaled = scaled.contiguous()
    halves = torch.tensor(list(zip(*keys, strict=True)), dtype=torch.int32)  # [2, rows]
    least = torch.full((rows,), -torch.inf) if floors is None else floors.float().contiguous()
    tokens = torch.empty(rows, dtype=torch.int64)
    _library().baton_draw(
        scaled.data_ptr(),
        halves.data_ptr(),
        least.data_ptr(),
        tokens.data_ptr(),
        rows,
        vocab,
        torch.get_num_threads(),
    )
    return tokens
