"""What the elements of a quantized weight are worth: each scheme's arithmetic, on tensors as files have them.

Every function gives float32, [outputs, inputs], of some of a weight's outputs and inputs; who asks rounds it to the
model's dtype. Products are exact in float32 or rounded once.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where the eight elements of an int32 are, in units of 4 bits
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Cut(NamedTuple):
    """Of a weight of `outputs` x `inputs`, rows [row, row_end) and columns [column, column_end)."""

    outputs: int
    inputs: int
    row: int
    row_end: int
    column: int
    column_end: int

    @property
    def rows(self) -> slice:
        return slice(self.row, self.row_end)

    @property
    def columns(self) -> slice:
        return slice(self.column, self.column_end)


def span(size: int, num_scales: int, block: int | None) -> int:
    """How many of `size` elements share one of `num_scales` scales. Raises: ValueError: they do not fit."""
    for one in (block or size, size, 1):
        if num_scales == -(-size // one):
            return one
    raise ValueError(f"has {num_scales} scales for {size} elements, of which {block or size} share one")


def scaled(values: Tensor, scales: Tensor, cut: Cut, row_span: int, column_span: int, zeros: Tensor | None) -> Tensor:
    """
    Args:
        values: The cut of FP8 or int8 elements.
        scales: [rows of blocks, columns of blocks], of the whole weight.
        zeros: As scales, or none.
    """
    rows = torch.arange(cut.row, cut.row_end, device=values.device) // row_span
    columns = torch.arange(cut.column, cut.column_end, device=values.device) // column_span
    wide = values.float()
    if zeros is not None:
        wide -= zeros.float()[rows][:, columns]
    return wide.mul_(real(scales)[rows][:, columns])


def check_finite(scales: Tensor, name: str) -> None:
    """Raises: ValueError: some are no numbers."""
    if scales.is_floating_point() and (num_wrong := int((~scales.float().isfinite()).sum())):
        raise ValueError(f"has {num_wrong} of {scales.numel()} scales in {name} that are no finite numbers")


def real(scales: Tensor) -> Tensor:
    """float32, of scales that may be given as exponents alone."""
    return (scales.float() - 127.0).exp2() if scales.dtype == torch.uint8 else scales.float()


def unpacked(words: Tensor, bits: int, dim: int, start: int, end: int) -> Tensor:
    """int32: elements [start, end) along `dim` (0 or 1), of which several lie in each of `words`, the first lowest."""
    each = 32 // bits
    first, last = start // each, -(-end // each)
    taken = words.narrow(dim, first, last - first)
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    if dim == 0:
        wide = (taken[:, None, :] >> shifts[:, None]).flatten(0, 1)
    else:
        wide = (taken[:, :, None] >> shifts).flatten(1, 2)
    return (wide & ((1 << bits) - 1)).narrow(dim, start - first * each, end - start)


def packed(parts: Mapping[str, Tensor], cut: Cut, bits: int, group: int | None) -> Tensor:
    """compressed-tensors' `weight_packed`, `weight_scale`, and perhaps `weight_zero_point` and `weight_g_idx`."""
    half = 1 << (bits - 1)
    values = unpacked(parts["weight_packed"][cut.rows], bits, 1, cut.column, cut.column_end).float()
    scales = parts["weight_scale"]
    groups = _groups(parts.get("weight_g_idx"), cut, scales.shape[1], group, scales.device)
    if (zeros := parts.get("weight_zero_point")) is not None:
        values -= unpacked(zeros, bits, 0, cut.row, cut.row_end).float()[:, groups]
    else:
        values -= half
    return values.mul_(scales[cut.rows].float()[:, groups])


def gptq(parts: Mapping[str, Tensor], cut: Cut, bits: int, group: int | None, zero_offset: int) -> Tensor:
    """`qweight` [inputs * bits / 32, outputs], `qzeros` [groups, outputs * bits / 32], `scales` [groups, outputs]."""
    values = unpacked(parts["qweight"][:, cut.rows], bits, 0, cut.column, cut.column_end)
    zeros = unpacked(parts["qzeros"], bits, 1, cut.row, cut.row_end)
    zeros = (zeros + zero_offset) & ((1 << bits) - 1)
    return _by_input(values, zeros, parts, cut, group)


def awq(parts: Mapping[str, Tensor], cut: Cut, group: int | None) -> Tensor:
    """`qweight` [inputs, outputs / 8], `qzeros` [groups, outputs / 8], `scales` [groups, outputs]."""
    start, end = cut.row // 8 * 8, -(-cut.row_end // 8) * 8
    inner = slice(cut.row - start, cut.row_end - start)
    values, zeros = (
        _in_order(unpacked(words, 4, 1, start, end))[:, inner]
        for words in (parts["qweight"][cut.columns], parts["qzeros"])
    )
    return _by_input(values, zeros, parts, cut, group)


def _in_order(elements: Tensor) -> Tensor:
    places = torch.tensor(AWQ_PLACES, device=elements.device)
    return elements.view(len(elements), -1, 8)[:, :, places].flatten(1, 2)


def _by_input(values: Tensor, zeros: Tensor, parts: Mapping[str, Tensor], cut: Cut, group: int | None) -> Tensor:
    """Of `values` [inputs, outputs], whose groups are along the inputs."""
    scales = parts["scales"]
    groups = _groups(parts.get("g_idx"), cut, scales.shape[0], group, scales.device)
    wide = values.float() - zeros.float()[groups]
    return wide.mul_(scales[:, cut.rows].float()[groups]).t()


def _groups(told: Tensor | None, cut: Cut, num_groups: int, group: int | None, device: torch.device) -> Tensor:
    """Of each input, its group: as a file says it, or so many one after the other."""
    if told is not None and bool((told >= 0).all()):
        if (last := int(told.max())) >= num_groups:
            raise ValueError(f"has the group {last} in its g_idx, where {num_groups} have scales")
        return told[cut.columns].long()
    return torch.arange(cut.column, cut.column_end, device=device) // span(cut.inputs, num_groups, group)


def mxfp4(blocks: Tensor, exponents: Tensor) -> Tensor:
    """
    Args:
        blocks: uint8 [experts, outputs, groups, 16], two elements in each, the first one low.
        exponents: uint8 [experts, outputs, groups], plus 127.
    Returns:
        float32 [experts, inputs, outputs].
    """
    table = torch.tensor([*FP4, *(-one for one in FP4)], device=blocks.device)
    both = torch.stack([table[(blocks & 15).int()], table[(blocks >> 4).int()]], dim=-1).flatten(-2)
    return torch.ldexp(both, exponents.int()[..., None] - 127).flatten(-2).transpose(1, 2)
