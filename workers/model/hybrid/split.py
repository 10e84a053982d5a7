"""What a step's layers of linear attention convolve and recur with: chunks that end in drafts apart from the others."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from workers.model.contract import Chunk
from workers.model.cuda.launching import to_device
from workers.model.hybrid.mixer import LinearStep, Recurrence
from workers.model.hybrid.states import States, rows_of
from workers.model.hybrid.tried import TriedStates


def linear_step(parts: Mapping[int, Sequence[Tensor]], chunks: Sequence[Chunk], device: torch.device) -> LinearStep:
    """Takes what `States` takes."""
    are_tried = [bool(chunk.num_drafts) for chunk in chunks]
    if not any(are_tried):
        return States(parts, chunks, device)
    if all(are_tried):
        return TriedStates(parts, chunks, device)
    return _Split(parts, chunks, are_tried, device)


class _Split:
    """Implements `LinearStep`."""

    def __init__(
        self,
        parts: Mapping[int, Sequence[Tensor]],
        chunks: Sequence[Chunk],
        are_tried: Sequence[bool],
        device: torch.device,
    ) -> None:
        tried = [chunk for chunk, is_tried in zip(chunks, are_tried, strict=True) if is_tried]
        others = [chunk for chunk, is_tried in zip(chunks, are_tried, strict=True) if not is_tried]
        sizes = torch.tensor([len(chunk.token_ids) for chunk in chunks])
        is_tried = torch.repeat_interleave(torch.tensor(are_tried), sizes)
        self._tried = TriedStates(parts, tried, device)
        self._groups: list[tuple[LinearStep, Tensor]] = [
            (self._tried, to_device(is_tried.nonzero()[:, 0], device)),
            (States(parts, others, device), to_device((~is_tried).nonzero()[:, 0], device)),
        ]

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        """See `LinearStep`."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for step, rows in self._groups:
            out[rows] = step.convolve(layer, x[rows], convolution)
        return out

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        """See `LinearStep`."""
        out = torch.empty_like(recurrence.v, memory_format=torch.contiguous_format)
        for step, rows in self._groups:
            out[rows] = step.recur(layer, rows_of(recurrence, rows))
        return out

    def settle(self, num_tokens: Mapping[int, int]) -> None:
        """See `LinearStep`."""
        self._tried.settle(num_tokens)
