"""What those who launch kernels share."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Without waiting: pinned memory is copied while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def power_of_2(size: int) -> int:
    """The least that is not below `size`, >= 1."""
    return 1 << (size - 1).bit_length()


def reason_of(error: Exception) -> str:
    """Its class and the first line of what it says: compilers say much."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def passes(trial: Callable[[], str], instead: str) -> bool:
    """Whether a kernel does what `trial` has it do, which compiles it.

    Args:
        trial: Says what is wrong; empty: nothing. What it raises, a compiler's errors say, is wrong too.
        instead: What is done without it, for the log.
    """
    try:
        wrong = trial()
    except Exception as error:  # torch is there for it
        wrong = reason_of(error)
    if wrong:
        logger.warning("%s: the kernel does not work here found=%s", instead, wrong)
    return not wrong


class StreamMark:
    """A place in the current stream's work, for who must not go on before the device is past it."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda
        self._event: Any = cuda.Event(blocking=True) if device.type == "cuda" else None

    def set(self) -> None:
        """After all that was launched so far."""
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Returns at once where it was never set, and on a CPU, which is done when a call returns."""
        if self._event is not None:
            self._event.synchronize()


def marked(device: torch.device) -> StreamMark:
    """A mark that is set now."""
    mark = StreamMark(device)
    mark.set()
    return mark
