"""What those who launch kernels share."""

import importlib.util

import torch
from torch import Tensor


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
