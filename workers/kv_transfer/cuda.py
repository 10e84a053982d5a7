"""Order between an engine's stream and the links' threads on one CUDA device.

Each link's thread copies on a stream of its own: on the engine's, a copy would wait for all layers that were launched
before it, and pushing layer by layer would win nothing.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


class CudaFence:
    """Implements `fences.Fence`: marks what the caller's stream has been given so far."""

    def __init__(self) -> None:
        cuda: Any = torch.cuda
        self._event = cuda.Event(enable_timing=True, blocking=True)  # waits without a busy core
        self._event.record()

    def is_past(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_to(self, later: "CudaFence") -> float:
        return float(self._event.elapsed_time(later._event)) / 1000


def cuda_scope() -> AbstractContextManager[Any]:
    """Within it the calling thread works on a new stream."""
    cuda: Any = torch.cuda
    scope: AbstractContextManager[Any] = cuda.stream(cuda.Stream())
    return scope


def cuda_flush() -> None:
    """Waits for the caller's stream."""
    torch.cuda.current_stream().synchronize()


def cuda_begin(target: Tensor, source: Tensor) -> CudaFence:
    """A copy between the device and pinned memory, on the caller's stream: `staging.Begin`."""
    target.copy_(source, non_blocking=True)
    return CudaFence()


def pinned(nbytes: int) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
