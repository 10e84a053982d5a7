"""The kernel of sums over the ranks of one machine, see reduce.c."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.model.cpu import native

MAX_RANKS = 64
HEAD_BYTES = 4096
DTYPES = (torch.float32, torch.bfloat16)
POINTER, INT = ctypes.c_void_p, ctypes.c_int64


class _Ranks(ctypes.Structure):
    """`baton_ranks` of reduce.c."""

    _fields_ = (
        ("rank", INT),
        ("size", INT),
        ("slot_bytes", INT),
        ("num_parts", INT),
        ("abort", ctypes.POINTER(ctypes.c_int32)),
        ("segments", POINTER * MAX_RANKS),
    )


@functools.cache
def _library() -> Any:
    library: Any = native.load("reduce")
    if library is not None:
        library.baton_all_reduce.argtypes = (POINTER, POINTER, INT, ctypes.c_int32)
        library.baton_gather.argtypes = (POINTER, POINTER, INT, POINTER)
    return library


def available() -> bool:
    """Whether the kernel is there; compiles it on the first call."""
    return _library() is not None


def segment_bytes(slot_bytes: int) -> int:
    return HEAD_BYTES + 2 * slot_bytes


class Reducer:
    """One rank's end. One thread at a time computes; `abort` may be called from any.

    Args:
        addresses: Of each rank's segment as this process sees it, zeroed before the first call of any rank.
        memories: What they point to, kept as long as this.
    """

    def __init__(self, addresses: Sequence[int], *, rank: int, slot_bytes: int, memories: Sequence[Any] = ()) -> None:
        self._memories = memories
        self._abort = ctypes.c_int32(0)
        self._ranks = _Ranks(
            rank=rank,
            size=len(addresses),
            slot_bytes=slot_bytes,
            num_parts=0,
            abort=ctypes.pointer(self._abort),
            segments=(POINTER * MAX_RANKS)(*addresses),
        )
        self._size = len(addresses)
        self._rank = rank
        self._at = ctypes.addressof(self._ranks)
        self._all_reduce, self._gather = _library().baton_all_reduce, _library().baton_gather

    def all_reduce(self, tensor: Tensor) -> None:
        """In place; float32 or bfloat16, contiguous. Raises: RuntimeError: aborted."""
        if self._all_reduce(self._at, tensor.data_ptr(), tensor.numel(), tensor.dtype == torch.bfloat16):
            raise RuntimeError("the ranks beside this one are gone")

    def gather(self, tensor: Tensor) -> Tensor | None:
        """[ranks, *tensor.shape] on rank 0, None on the others; contiguous. Raises: RuntimeError: aborted."""
        out = tensor.new_empty((self._size, *tensor.shape)) if self._rank == 0 else None
        self._gather_into(tensor, out)
        return out

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[ranks, *tensor.shape] on every rank; contiguous. Raises: RuntimeError: aborted."""
        out = tensor.new_empty((self._size, *tensor.shape))
        self._gather_into(tensor, out)
        return out

    def _gather_into(self, tensor: Tensor, out: Tensor | None) -> None:
        if self._gather(self._at, tensor.data_ptr(), tensor.nbytes, out.data_ptr() if out is not None else None):
            raise RuntimeError("the ranks beside this one are gone")

    def abort(self) -> None:
        """Frees a call that waits."""
        self._abort.value = 1
