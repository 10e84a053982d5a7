"""Order between an engine's stream and the links' threads on one CUDA device."""

from collections.abc import Callable

import torch


def cuda_fence() -> Callable[[], None]:
    """Marks what the caller's stream has been given so far; calling the result waits for it."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()

    def wait() -> None:
        event.synchronize()

    return wait


def cuda_flush() -> None:
    """Waits for the caller's stream."""
    torch.cuda.current_stream().synchronize()
