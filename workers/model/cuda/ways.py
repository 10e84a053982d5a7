"""The ways to attend on a GPU: Triton's kernels of our own, FlashInfer where it is installed, torch.

Each serves steps of any shape, and decode steps whose numbers lie in fixed buffers, so that a CUDA graph may replay
them. Which is used is found at start by measurement (see `choose`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from workers.model import attention_torch
from workers.model.attention import PagedAttention, PagedMeta
from workers.model.cuda import ragged
from workers.model.cuda.attention import FlashInfer, flashinfer_available, make_workspace, over_tables
from workers.model.cuda.inputs import DecodeInputs
from workers.model.cuda.launching import has_triton


class Fixed(NamedTuple):
    """For the steps of one graph."""

    attention: Callable[[PagedMeta], PagedAttention]  # called when it is captured, in it
    renew: Callable[[PagedMeta], None]  # called before each replay, beside it


class Way(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be launched while the one before it runs: no memory of the host is read by both."""
        ...

    def eager(self) -> PagedAttention:
        """For steps that are not replayed."""
        ...

    def fixed(self, inputs: DecodeInputs) -> Fixed: ...


class TorchWay:
    name = "torch"
    runs_ahead = True

    def eager(self) -> PagedAttention:
        return attention_torch.paged_attention

    def fixed(self, inputs: DecodeInputs) -> Fixed:
        return Fixed(lambda _: over_tables(inputs.tables, inputs.positions.long() + 1), _nothing)


class FlashInferWay:
    """Plans on the host, before every step."""

    name = "flashinfer"
    runs_ahead = False  # each plan is written to the same pinned memory

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._replayed = make_workspace(device)

    def eager(self) -> PagedAttention:
        return FlashInfer(self._device, make_workspace(self._device))

    def fixed(self, inputs: DecodeInputs) -> Fixed:
        size = inputs.batch * inputs.width
        attention = FlashInfer(self._device, self._replayed, fixed_batch=inputs.batch, max_blocks=size)
        return Fixed(lambda _: attention, attention.begin)


class TritonWay:
    """Plans on the device: a replay does it anew."""

    name = "triton"
    runs_ahead = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._partials: ragged.Partials = {}

    def eager(self) -> PagedAttention:
        return ragged.RaggedAttention(self._device, partials=self._partials)

    def fixed(self, inputs: DecodeInputs) -> Fixed:
        attention = ragged.RaggedAttention(self._device, partials=self._partials)
        step = ragged.OnDevice(
            query_start=inputs.query_start,
            num_context=inputs.positions,
            is_tree=torch.zeros_like(inputs.positions),
            tables=inputs.tables,
            num_tokens=inputs.batch,
        )

        def begun(meta: PagedMeta) -> PagedAttention:
            attention.begin(meta, step)
            return attention

        return Fixed(begun, _nothing)


def ways(device: torch.device, head_dims: set[int], dtype: torch.dtype) -> Sequence[Way]:
    """That can serve every layer, the one that is thought fastest first; torch is always there, and last."""
    found: list[Way] = []
    if has_triton() and ragged.suits(head_dims, dtype):
        found.append(TritonWay(device))
    if flashinfer_available(head_dims, dtype):
        found.append(FlashInferWay(device))
    return [*found, TorchWay()]


def _nothing(_: PagedMeta) -> None:
    """What the graph needs is in its buffers."""
