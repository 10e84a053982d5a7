"""Decode steps replayed from CUDA graphs, one graph per padded batch size and table width.

A graph has one query row per chunk: steps with prompts of more than one token, or with draft tokens, run eagerly.
Padding rows are sequences of one token in a scratch block that no request owns. A graph is captured at the first step
that needs it; where a model cannot be captured (its experts synchronize, say), every step runs eagerly.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.model.attention import PagedAttention, PagedMeta, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.capture import capture
from workers.model.cuda.inputs import DecodeInputs
from workers.model.cuda.launching import power_of_2, reason_of
from workers.model.cuda.ways import Fixed, Way

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MIN_WIDTH = 16  # blocks

# (input ids [1, B], positions [1, B], slots [B], meta, attention) -> logits [B, vocab_size]
Forward = Callable[[Tensor, Tensor, Tensor, PagedMeta, PagedAttention], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    graph: Any  # torch.cuda.CUDAGraph
    inputs: DecodeInputs
    logits: Tensor  # [B, vocab_size], overwritten by the next replay
    fixed: Fixed


class DecodeGraphs:
    def __init__(
        self,
        forward: Forward,
        *,
        way: Way,
        device: torch.device,
        block_size: int,
        scratch_block: int,
        max_batch: int,
    ) -> None:
        self.forward = forward
        self.way = way
        self.device = device
        self.block_size = block_size
        self.max_batch = max_batch
        self.pad = Chunk(token_ids=(0,), start=0, block_ids=(scratch_block,), num_sequence_tokens=1)
        self._graphs: dict[tuple[int, int], Captured] = {}
        self._is_capturable = True
        self._pool: Any = None  # of all graphs: one runs at a time, and each keeps its logits

    @property
    def num_captured(self) -> int:
        return len(self._graphs)

    def run(self, chunks: Sequence[Chunk]) -> Tensor | None:
        """Logits [len(chunks), vocab_size] of one new token per chunk; None when this step must run eagerly."""
        if any(len(chunk.token_ids) != 1 for chunk in chunks):
            return None
        size = padded(len(chunks), min(self.max_batch, BATCH_SIZES[-1]))
        if not self._is_capturable or size is None:
            return None
        full = [*chunks, *[self.pad] * (size - len(chunks))]
        meta = build_meta(full, self.block_size)
        width = max(MIN_WIDTH, power_of_2(meta.block_tables.shape[1]))
        token_ids = [chunk.token_ids[0] for chunk in full]
        captured = self._graphs.get((size, width))
        if captured is None:
            try:
                captured = self._capture(token_ids, meta, width)
            except Exception as error:  # torch's, or a compiler's
                logger.warning("decode runs without CUDA graphs error=%s", reason_of(error))
                self._is_capturable = False
                return None
            self._graphs[size, width] = captured
        captured.inputs.fill(token_ids, meta)
        captured.fixed.renew(meta)
        captured.graph.replay()
        return captured.logits[: len(chunks)]

    def _capture(self, token_ids: Sequence[int], meta: PagedMeta, width: int) -> Captured:
        inputs = DecodeInputs(meta.num_chunks, width, self.device)
        inputs.fill(token_ids, meta)
        fixed = self.way.fixed(inputs)
        fixed.renew(meta)

        def compute() -> Tensor:
            places = inputs.tokens.long()[None], inputs.positions.long()[None], inputs.slots.long()
            return self.forward(*places, meta, fixed.attention(meta))

        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, logits = capture(compute, self.device, self._pool)
        return Captured(graph=graph, inputs=inputs, logits=logits, fixed=fixed)


def padded(num_sequences: int, max_batch: int) -> int | None:
    """The least captured batch size that holds `num_sequences`; None if there is none."""
    if num_sequences > max_batch:
        return None
    return next((size for size in BATCH_SIZES if size >= num_sequences), None)
