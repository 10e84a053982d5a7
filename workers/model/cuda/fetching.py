"""What a step gave, on its way to the host while the device and the host go on."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Fetched:
    """Copies of tensors on the host, there when what the device was given before is done; on a CPU at once.

    Args:
        tensors: On the device. They may be written again by what it is given later.
    """

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        self._tensors = list(tensors)
        self._event: Any = None
        if device.type == "cuda":
            self._tensors = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in tensors
            ]
            cuda: Any = torch.cuda
            self._event = cuda.Event(blocking=True)  # waits without a busy core
            self._event.record()

    def is_past(self) -> bool:
        return self._event is None or bool(self._event.query())

    def wait(self) -> list[Tensor]:
        if self._event is not None:
            self._event.synchronize()
        return self._tensors
