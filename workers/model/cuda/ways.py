"""The ways to attend on a GPU: Triton's kernels of our own, FlashInfer where it is installed, torch.

Each serves steps of any shape, and decode steps whose numbers lie in fixed buffers, so that a CUDA graph may replay
them; Triton's kernels, which plan on the device, serve any step so. Which is used is found at start by measurement (see
`choose`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from baton.errors import ConfigError
from workers.model import attention_torch
from workers.model.attention import PagedAttention, PagedMeta
from workers.model.cuda import ragged
from workers.model.cuda.attention import FlashInfer, flashinfer_available, make_workspace, over_tables
from workers.model.cuda.inputs import StepInputs
from workers.model.cuda.launching import has_triton

USUAL_CHUNK = 8  # new tokens: some have one, others hundreds


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

    @property
    def is_ragged(self) -> bool:
        """Whether `fixed` serves mixed steps too, and tables that lie one after the other.

        Else it serves one token of each sequence, over tables of one width.
        """
        ...

    def eager(self) -> PagedAttention:
        """For steps that are not replayed."""
        ...

    def fixed(self, inputs: StepInputs) -> Fixed: ...


class TorchWay:
    name = "torch"
    runs_ahead = True
    is_ragged = False

    def eager(self) -> PagedAttention:
        return attention_torch.paged_attention

    def fixed(self, inputs: StepInputs) -> Fixed:
        return Fixed(lambda _: over_tables(inputs.tables, inputs.positions + 1), _nothing)


class FlashInferWay:
    """Plans on the host, before every step."""

    name = "flashinfer"
    runs_ahead = False  # each plan is written to the same pinned memory
    is_ragged = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._replayed = make_workspace(device)

    def eager(self) -> PagedAttention:
        return FlashInfer(self._device, make_workspace(self._device))

    def fixed(self, inputs: StepInputs) -> Fixed:
        size = inputs.size
        attention = FlashInfer(self._device, self._replayed, fixed_batch=size.num_chunks, max_blocks=size.num_entries)
        return Fixed(lambda _: attention, attention.begin)


class TritonWay:
    """Plans on the device: a replay does it anew."""

    name = "triton"
    runs_ahead = True
    is_ragged = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._partials: ragged.Partials = {}

    def eager(self) -> PagedAttention:
        return ragged.RaggedAttention(self._device, partials=self._partials)

    def fixed(self, inputs: StepInputs) -> Fixed:
        size = inputs.size
        attention = ragged.RaggedAttention(self._device, partials=self._partials)
        step = ragged.OnDevice(
            query_start=inputs.query_start,
            num_context=inputs.num_context,
            is_tree=inputs.is_tree,
            tables=inputs.tables.flatten(),
            table_start=inputs.table_start,
            num_tokens=size.num_tokens,
            usual_chunk=USUAL_CHUNK if size.is_mixed else None,
            positions=inputs.positions,
            seen=inputs.seen if size.has_trees else None,
        )

        def begun(meta: PagedMeta) -> PagedAttention:
            attention.begin(meta, step)
            return attention

        return Fixed(begun, _nothing)


def ways(device: torch.device, head_dims: set[int], dtype: torch.dtype, *, is_fp8: bool = False) -> Sequence[Way]:
    """That can serve every layer, the one that is thought fastest first; torch is always there, and last.

    Args:
        dtype: Of queries, and of keys and values but where `is_fp8`.
    Raises:
        ConfigError: Nothing but torch would read FP8.
    """
    found: list[Way] = []
    if has_triton() and ragged.suits(head_dims, dtype):
        found.append(TritonWay(device))
    elif is_fp8:
        sizes = ", ".join(map(str, sorted(head_dims)))
        raise ConfigError(
            f"kv.dtype: fp8 is read by Triton's kernels alone, which want triton and heads of {ragged.HEAD_DIMS[0]} to "
            f"{ragged.HEAD_DIMS[-1]} dimensions; this model's have {sizes}; set kv.dtype: auto"
        )
    if flashinfer_available(head_dims, dtype):
        found.append(FlashInferWay(device))
    return [*found, TorchWay()]


def _nothing(_: PagedMeta) -> None:
    """What the graph needs is in its buffers."""
