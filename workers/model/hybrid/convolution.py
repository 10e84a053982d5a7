"""The short convolution of a ragged batch: each token's inputs with the last ones before it in its own sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workers.model.cuda.launching import to_device


class Window:
    """Where a batch's rows lie when each chunk's follow the inputs before it. Layer-independent.

    Args:
        sizes: Tokens of each chunk.
        num_inputs: That a token looks back at.
    """

    def __init__(self, sizes: Sequence[int], num_inputs: int, device: torch.device) -> None:
        counts = torch.tensor(sizes)
        ends = (counts + num_inputs).cumsum(0)  # of each chunk, in the window
        lasts = torch.arange(num_inputs)
        shifts = torch.repeat_interleave(torch.arange(1, len(sizes) + 1) * num_inputs, counts)
        self.num_inputs = num_inputs
        self.is_decode = max(sizes) == 1  # a token of each sequence
        self.rows = to_device(torch.arange(len(shifts)) + shifts, device)  # [T]: of each row of the batch
        self.before = to_device((ends - counts - num_inputs)[:, None] + lasts, device)  # [num_chunks, num_inputs]
        self.after = to_device((ends - num_inputs)[:, None] + lasts, device)  # [num_chunks, num_inputs]


def convolve(x: Tensor, before: Tensor, window: Window, convolution: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Tap by tap, in float32.

    Args:
        x: Inputs [T, channels].
        before: Inputs before each chunk: [num_chunks, num_inputs, channels].
    Returns:
        [T, channels], and the last inputs of each chunk's sequence, as `before` gives them.
    """
    if window.is_decode:
        return _decode(x, before, convolution)
    num_inputs = window.num_inputs
    padded = x.new_empty(x.shape[0] + before.shape[0] * num_inputs, x.shape[1])
    padded[window.rows] = x
    padded[window.before] = before
    weight = convolution.weight[:, 0].float()  # [channels, num_inputs + 1]
    out = x.float() * weight[:, num_inputs]
    for tap in range(num_inputs):
        out.addcmul_(padded[window.rows - (num_inputs - tap)].float(), weight[:, tap])
    if convolution.bias is not None:
        out += convolution.bias.float()
    return out.to(x.dtype), padded[window.after]


def _decode(x: Tensor, before: Tensor, convolution: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """The same for one token of each sequence, in fewer calls."""
    padded = torch.cat([before, x[:, None]], dim=1)  # [T, num_inputs + 1, channels]
    out = (padded * convolution.weight[:, 0].float().t()).sum(dim=1)
    if convolution.bias is not None:
        out += convolution.bias
    return out.to(x.dtype), padded[:, 1:]
