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

from workers.model.attention import PagedAttention, PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.attention import FlashInfer, gathered

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MIN_WIDTH = 16  # blocks
NUM_WARM_RUNS = 2  # before a capture, as torch asks

# (input ids [1, B], positions [1, B], slots [B], meta, attention) -> logits [B, vocab_size]
Forward = Callable[[Tensor, Tensor, Tensor, PagedMeta, PagedAttention], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    graph: Any  # torch.cuda.CUDAGraph
    tokens: Tensor  # [1, B]
    positions: Tensor  # [1, B]
    slots: Tensor  # [B]
    tables: Tensor  # [B, width] int32
    lengths: Tensor  # [B] int64
    logits: Tensor  # [B, vocab_size], overwritten by the next replay
    flashinfer: FlashInfer | None


class DecodeGraphs:
    def __init__(
        self,
        forward: Forward,
        *,
        device: torch.device,
        block_size: int,
        scratch_block: int,
        max_batch: int,
        workspace: Tensor | None,
    ) -> None:
        """`workspace`: FlashInfer's, or None to attend with torch."""
        self.forward = forward
        self.device = device
        self.block_size = block_size
        self.max_batch = max_batch
        self.workspace = workspace
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
        width = max(MIN_WIDTH, 1 << (meta.block_tables.shape[1] - 1).bit_length())
        tokens = torch.tensor([[chunk.token_ids[0] for chunk in full]])
        captured = self._graphs.get((size, width))
        if captured is None:
            try:
                captured = self._capture(tokens, meta, width)
            except RuntimeError as error:  # torch's only class for it
                logger.warning("decode runs without CUDA graphs error=%s", str(error).splitlines()[0])
                self._is_capturable = False
                return None
            self._graphs[size, width] = captured
        self._fill(captured, tokens, meta)
        captured.graph.replay()
        return captured.logits[: len(chunks)]

    def _fill(self, captured: Captured, tokens: Tensor, meta: PagedMeta) -> None:
        captured.tokens.copy_(tokens, non_blocking=True)
        captured.positions.copy_(meta.positions[None], non_blocking=True)
        captured.slots.copy_(meta.slot_mapping, non_blocking=True)
        captured.tables[:, : meta.block_tables.shape[1]].copy_(meta.block_tables, non_blocking=True)
        captured.lengths.copy_(meta.positions + 1, non_blocking=True)
        if captured.flashinfer is not None:
            captured.flashinfer.begin(meta)

    def _capture(self, tokens: Tensor, meta: PagedMeta, width: int) -> Captured:
        size = meta.num_chunks
        inputs = Captured(
            graph=torch.cuda.CUDAGraph(),
            tokens=torch.zeros(1, size, dtype=torch.int64, device=self.device),
            positions=torch.zeros(1, size, dtype=torch.int64, device=self.device),
            slots=torch.zeros(size, dtype=torch.int64, device=self.device),
            tables=torch.zeros(size, width, dtype=torch.int32, device=self.device),
            lengths=torch.ones(size, dtype=torch.int64, device=self.device),
            logits=torch.empty(0),
            flashinfer=self._flashinfer(size, width),
        )
        self._fill(inputs, tokens, meta)
        attention: PagedAttention = inputs.flashinfer or over_tables(inputs.tables, inputs.lengths)
        cuda: Any = torch.cuda
        current = torch.cuda.current_stream(self.device)
        aside = cuda.Stream(self.device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(NUM_WARM_RUNS):
                self.forward(inputs.tokens, inputs.positions, inputs.slots, meta, attention)
        current.wait_stream(aside)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # The outer context: where a capture fails, torch leaves its own stream as the current one.
        # thread_local: links' threads allocate and wait meanwhile, which the default mode takes for a fault of theirs.
        capture = torch.cuda.graph(inputs.graph, pool=self._pool, capture_error_mode="thread_local")
        with torch.cuda.stream(current), capture:
            logits = self.forward(inputs.tokens, inputs.positions, inputs.slots, meta, attention)
        return Captured(
            graph=inputs.graph,
            tokens=inputs.tokens,
            positions=inputs.positions,
            slots=inputs.slots,
            tables=inputs.tables,
            lengths=inputs.lengths,
            logits=logits,
            flashinfer=inputs.flashinfer,
        )

    def _flashinfer(self, size: int, width: int) -> FlashInfer | None:
        if self.workspace is None:
            return None
        return FlashInfer(self.device, self.workspace, fixed_batch=size, max_blocks=size * width)


def padded(num_sequences: int, max_batch: int) -> int | None:
    """The least captured batch size that holds `num_sequences`; None if there is none."""
    if num_sequences > max_batch:
        return None
    return next((size for size in BATCH_SIZES if size >= num_sequences), None)


def over_tables(tables: Tensor, lengths: Tensor) -> PagedAttention:
    """`gathered` over tables that stay where they are while their values change."""

    def attend(query: Tensor, k_cache: Tensor, v_cache: Tensor, meta: PagedMeta, scoring: Scoring) -> Tensor:
        return gathered(query, k_cache, v_cache, tables, lengths, scoring)

    return attend
