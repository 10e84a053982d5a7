"""The states of a step's sequences: convolutions and recurrences over a ragged batch, with each one's state in a slot.

Tokens of all chunks lie one after the other. Decodes go through the recurrence together, chunks of more tokens one by
one. A chunk that begins its sequence begins from zero, whatever is in its slot.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from workers.model.contract import Chunk
from workers.model.cuda.launching import to_device
from workers.model.hybrid.convolution import Window, convolve
from workers.model.hybrid.mixer import Recurrence
from workers.model.linear.scan import scan
from workers.model.linear.step import step


class States:
    """What the layers of one forward pass convolve and recur with.

    Args:
        parts: Of each layer that has a state, its parts: [num_slots, heads, ...] each.
        chunks: The batch's; each has a `state_id`, and none ends in drafts.
    """

    def __init__(self, parts: Mapping[int, Sequence[Tensor]], chunks: Sequence[Chunk], device: torch.device) -> None:
        self._parts = parts
        self._sizes = [len(chunk.token_ids) for chunk in chunks]
        self._slots = to_device(torch.tensor([chunk.state_id for chunk in chunks]), device)
        is_new = [chunk.start == 0 for chunk in chunks]
        self._is_new = to_device(torch.tensor(is_new), device) if any(is_new) else None
        ends = [sum(self._sizes[: index + 1]) for index in range(len(chunks))]
        spans = [(index, end - size, end) for index, (size, end) in enumerate(zip(self._sizes, ends, strict=True))]
        self._longer = [span for span in spans if span[2] - span[1] > 1]  # (chunk, first row, end row)
        singles = [span[:2] for span in spans if span[2] - span[1] == 1]
        self._singles = to_device(torch.tensor(singles, dtype=torch.int64).view(-1, 2), device)  # (chunk, row)
        self._windows: dict[int, Window] = {}

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        """See `LinearStep`."""
        parts = self._parts[layer][1:]
        num_inputs = convolution.kernel_size[0] - 1
        window = self._windows.get(num_inputs)
        if window is None:
            window = self._windows[num_inputs] = Window(self._sizes, num_inputs, x.device)
        before = torch.cat([self._before(part).transpose(1, 2).flatten(2) for part in parts], dim=-1)
        out, after = convolve(x, before, window, convolution)
        sizes = [part.shape[1] * part.shape[3] for part in parts]
        for part, inputs in zip(parts, torch.split(after, sizes, dim=-1), strict=True):
            by_head = inputs.reshape(*inputs.shape[:2], part.shape[1], part.shape[3])
            part.index_copy_(0, self._slots, by_head.transpose(1, 2))
        return out

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        """See `LinearStep`."""
        kept = self._parts[layer][0]
        before = self._before(kept)
        if not self._longer:
            out, after = step(*recurrence, before)
            kept.index_copy_(0, self._slots, after)
            return out
        out = torch.empty_like(recurrence.v, memory_format=torch.contiguous_format)
        for chunk, begin, end in self._longer:
            out[begin:end], before[chunk] = scan(*rows_of(recurrence, slice(begin, end)), before[chunk])
        if len(self._singles):
            singles, rows = self._singles.unbind(1)
            out[rows], before[singles] = step(*rows_of(recurrence, rows), before[singles])
        kept.index_copy_(0, self._slots, before)
        return out

    def settle(self, num_tokens: Mapping[int, int]) -> None:
        """Nothing: there are no drafts."""

    def _before(self, kept: Tensor) -> Tensor:
        """A copy of the states before each chunk: zero where it begins its sequence."""
        states = kept[self._slots]
        if self._is_new is not None:
            states[self._is_new] = 0
        return states


def rows_of(recurrence: Recurrence, rows: Tensor | slice) -> Recurrence:
    q, k, v, log_decay, beta = recurrence
    decays, betas = (None if part is None else part[rows] for part in (log_decay, beta))
    return Recurrence(q[rows], k[rows], v[rows], decays, betas)
