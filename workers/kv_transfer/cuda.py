"""Order between an engine's stream and the links' threads on one CUDA device.

Each link's thread copies on a stream of its own: on the engine's, a copy would wait for all layers that were launched
before it, and pushing layer by layer would win nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch


def cuda_fence() -> Callable[[], None]:
    """Marks what the caller's stream has been given so far; calling the result waits for it, without a busy core."""
    cuda: Any = torch.cuda
    event = cuda.Event(blocking=True)
    event.record()

    def wait() -> None:
        event.synchronize()

    return wait


def cuda_scope() -> AbstractContextManager[Any]:
    """Within it the calling thread works on a new stream."""
    cuda: Any = torch.cuda
    scope: AbstractContextManager[Any] = cuda.stream(cuda.Stream())
    return scope


def cuda_flush() -> None:
    """Waits for the caller's stream."""
    torch.cuda.current_stream().synchronize()
