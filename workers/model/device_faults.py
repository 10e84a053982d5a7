"""Which errors mean that a device's context is gone, so that nothing computed after them can be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.model.contract import DeviceLostError

# Of a CUDA context, or of what is built on one; each is sticky: every later call fails, or answers with garbage.
WORDS = (
    "cuda error",
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ecc error",
    "hardware exception",
    "cublas_status_execution_failed",
    "cublas_status_internal_error",
    "cudnn_status_execution_failed",
    "unhandled cuda error",  # NCCL's
)


def is_lost(error: BaseException) -> bool:
    """Whether this rank's process must end: its device does not compute rightly any more.

    What ran out of memory, a wrong request and a bug in Python are no such errors.
    """
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if _is_sticky(one):
            return True
        one = one.__cause__ or one.__context__
    return False


@contextmanager
def lost_devices_named() -> Iterator[None]:
    """Raises: DeviceLostError: in place of an error which means that."""
    try:
        yield
    except DeviceLostError:
        raise
    except Exception as error:
        if is_lost(error):
            raise DeviceLostError(f"the device is of no use any more: {error}") from error
        raise


def _is_sticky(error: BaseException) -> bool:
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in WORDS)


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    words = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(word in text for word in words)
