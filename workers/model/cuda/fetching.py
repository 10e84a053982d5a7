"""What a step gave, on its way to the host while the device and the host go on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.model.cuda.launching import StreamMark, marked


class Fetched:
    """Copies of tensors on the host, there when what the device was given before is done; on a CPU at once.

    Args:
        tensors: On the device. They may be written again by what it is given later.
    """

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        self._tensors = list(tensors)
        if device.type == "cuda":
            self._tensors = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in tensors
            ]
        self._mark: StreamMark = marked(device)

    def wait(self) -> list[Tensor]:
        self._mark.wait()
        return self._tensors
