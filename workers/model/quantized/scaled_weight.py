"""A weight that stays in memory as its file has it: elements of 8 bits and scales, dequantized where it is used."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from workers.model.quantized.schemes import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledWeight:
    """
    Attributes:
        values: [outputs, inputs] of FP8 or int8, contiguous.
        scales: float32 [ceil(outputs / row_span), ceil(inputs / column_span)], contiguous.
    """

    values: Tensor
    scales: Tensor
    row_span: int
    column_span: int

    @classmethod
    def cut(cls, values: Tensor, scales: Tensor, cut: Cut, row_span: int, column_span: int) -> Self:
        """
        Args:
            values: The cut, whose first column begins a block.
            scales: float32, of the whole weight.
        """
        if cut.row % row_span:
            finer = math.gcd(cut.row, row_span)
            scales, row_span = _finer(scales, row_span, finer), finer
        first, last = cut.row // row_span, -(-cut.row_end // row_span)
        column, column_last = cut.column // column_span, -(-cut.column_end // column_span)
        return cls(
            values=values.contiguous(),
            scales=scales[first:last, column:column_last].contiguous(),
            row_span=row_span,
            column_span=column_span,
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes

    @property
    def device(self) -> torch.device:
        return self.values.device

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """[outputs, inputs]: each product in float32, rounded once."""
        outputs, inputs = self.shape
        by_row = self.scales.repeat_interleave(self.row_span, 0)[:outputs]
        return self.values.float().mul_(by_row.repeat_interleave(self.column_span, 1)[:, :inputs]).to(dtype)

    def at(self, flat: Tensor) -> Tensor:
        """float32: elements by their flat indices, as `dequantized` has them before it rounds."""
        rows, columns = flat // self.shape[1], flat % self.shape[1]
        found = _as_bytes(self.values).view(-1)[flat].view(self.values.dtype)
        return found.float() * self.scales[rows // self.row_span, columns // self.column_span]


def are_alike(parts: Sequence[ScaledWeight]) -> bool:
    """Whether `joined` makes one weight of them."""
    return len({(part.column_span, part.values.dtype) for part in parts}) == 1


def joined(parts: Sequence[ScaledWeight]) -> ScaledWeight | None:
    """One weight of several, their outputs after each other; None: their scales do not go together."""
    if not are_alike(parts):
        return None
    row_span = math.gcd(*(part.row_span for part in parts), *(part.shape[0] for part in parts[:-1]))
    finer = [_finer(part.scales, part.row_span, row_span) for part in parts]
    return ScaledWeight(
        values=torch.cat([_as_bytes(part.values) for part in parts]).view(parts[0].values.dtype),
        scales=torch.cat([scales[: -(-part.shape[0] // row_span)] for part, scales in zip(parts, finer, strict=True)]),
        row_span=row_span,
        column_span=parts[0].column_span,
    )


def _finer(scales: Tensor, row_span: int, wanted: int) -> Tensor:
    """Each row so often that `wanted` outputs share one where `row_span` did."""
    return scales.repeat_interleave(row_span // wanted, 0)


def _as_bytes(values: Tensor) -> Tensor:
    """What every device can gather and join, whichever numbers they are."""
    return values.view(torch.uint8)
