"""Steps replayed from CUDA graphs, one graph per size to which they are padded (`graph_sizes`).

A graph holds a whole step up to its logits, and reads its numbers where `inputs.StepInputs` puts them. Padding lies in
a scratch block that no request owns: decodes are filled up with sequences of one token, other steps with one chunk.
The usual sizes are captured at start, others at the first step that needs one. What cannot be captured (a model whose
experts wait for the device, say), and what finds no memory, runs eagerly.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from workers.model.attention import PagedAttention, PagedMeta, build_meta
from workers.model.contract import Chunk, Row
from workers.model.cuda.capture import Capture, CUDACapture
from workers.model.cuda.graph_sizes import GraphSize, GraphSizes
from workers.model.cuda.inputs import Buffers, StepInputs, Taken, nbytes_of
from workers.model.cuda.launching import reason_of
from workers.model.cuda.ways import Fixed, Way
from workers.model.device_memory import mib

logger = logging.getLogger(__name__)

NONE, OTHER, FULL = 0.0, 1.0, 2.0  # what ranks tell each other of a capture
USUAL_S = 9.0  # after which no capture begins at start: one takes a fraction of a second

# (input ids [1, T], positions [1, T], slots [T], meta, attention, rows [R]) -> logits [R, vocab_size]
Forward = Callable[[Tensor, Tensor, Tensor, PagedMeta, PagedAttention, Tensor], Tensor]
Kind = tuple[bool, bool]  # of sizes that can or cannot be captured: mixed, with trees


class Captured(NamedTuple):
    num_graphs: int
    num_left: int  # of the usual sizes: for the first step that needs them
    seconds: float
    nbytes: int

    def __str__(self) -> str:
        left = f", {self.num_left} are left" if self.num_left else ""
        return f"{self.num_graphs} graphs in {self.seconds:.1f} s, {mib(self.nbytes)}{left}"


@dataclass(slots=True, kw_only=True)
class StepGraph:
    inputs: StepInputs
    fixed: Fixed
    replay: Callable[[], None] | None = None  # None: not captured yet


class StepGraphs:
    """Not thread-safe; of one stream.

    Args:
        decode, mixed: How steps attend; `mixed` is ragged, or None: such steps have no graphs.
        windows: Of all layers.
        scratch_block: That no request owns.
        capture: None: in CUDA graphs.
        is_lazy: Mixed steps may be captured at the first that needs it. Not where only some ranks might meet one.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        sizes: GraphSizes,
        decode: Way,
        mixed: Way | None,
        device: torch.device,
        scratch_block: int,
        windows: Sequence[int | None] = (None,),
        capture: Capture | None = None,
        is_lazy: bool = True,
    ) -> None:
        assert mixed is None or mixed.is_ragged
        assert sizes.has_mixed == (mixed is not None)
        assert sizes.has_width != decode.is_ragged
        self.sizes = sizes
        self._forward = forward
        self._decode = decode
        self._mixed = mixed
        self._device = device
        self._scratch_block = scratch_block
        self._windows = windows
        self._is_lazy = is_lazy
        self._capture: Capture = capture or CUDACapture(device)
        self._buffers = Buffers(nbytes_of(sizes.largest, len(windows)), device)
        self._graphs: dict[GraphSize, StepGraph] = {}
        self._eager: set[Kind] = set()  # what cannot be captured
        self._is_full = False  # there is no memory for more
        self.at_start: Captured | None = None  # None: `capture_usual` was not called
        self._logits: Tensor | None = None  # [sizes.max_rows, vocab_size], of the last replay

    @property
    def num_captured(self) -> int:
        return sum(graph.replay is not None for graph in self._graphs.values())

    @property
    def nbytes(self) -> int:
        """On the device, with what lies beside the graphs."""
        return self._capture.nbytes + self._buffers.nbytes + (0 if self._logits is None else self._logits.nbytes)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk], rows: Sequence[Row], taken: Taken | None = None) -> Tensor | None:
        """Logits [tokens of all rows, vocab_size], which the next replay overwrites. Nothing waits for the device.

        Args:
            taken: Tokens that are not in the chunks.
        Returns:
            None: nothing was done, and the step must run eagerly.
        """
        size = self.sizes.of(chunks, rows)
        if size is None:
            return None
        if size not in self._graphs and not (self._is_open(size) and (self._is_lazy or not size.is_mixed)):
            return None
        if not self._replay(size, chunks, rows, taken):
            return None
        assert self._logits is not None
        return self._logits[: sum(1 + row.num_drafts for row in rows)]

    @torch.inference_mode()
    def capture_usual(
        self,
        *,
        budget_s: float = USUAL_S,
        clock: Callable[[], float] = time.perf_counter,
        most_of_all: Callable[[float], float] = float,
    ) -> Captured:
        """Before the first step: nothing but the scratch block is written.

        Args:
            most_of_all: The largest of all ranks' numbers: they capture the same. Each rank calls it as often.
        """
        began_s = clock()
        usual = list(self.sizes.usual())
        for size in usual:
            if most_of_all(clock() - began_s) >= budget_s:
                break
            is_captured = self._is_open(size) and self._replay(size, (), ())
            trouble = most_of_all(NONE if is_captured else FULL if self._is_full else OTHER)
            if trouble != NONE:
                self._graphs.pop(size, None)
                self._eager.add(_kind(size))
                self._is_full |= trouble == FULL
        num_left = sum(size not in self._graphs for size in usual)
        self.at_start = found = Captured(self.num_captured, num_left, clock() - began_s, self.nbytes)
        logger.info("captured graphs num_graphs=%d num_left=%d seconds=%.1f nbytes=%d", *found[:])
        return found

    def _is_open(self, size: GraphSize) -> bool:
        return not self._is_full and _kind(size) not in self._eager

    def _replay(
        self, size: GraphSize, chunks: Sequence[Chunk], rows: Sequence[Row], taken: Taken | None = None
    ) -> bool:
        """Whether it was: of a size without a graph it is captured first."""
        padded = [*chunks, *self._padding(size, chunks)]
        meta = build_meta(padded, self.sizes.block_size)
        meta.positions[meta.query_starts[len(chunks)] :] = 0  # of padding: within what the model knows
        ends = [(meta.query_starts[row.chunk + 1], row.num_drafts) for row in rows]
        places = [at for end, drafts in ends for at in range(end - drafts - 1, end)]
        graph = self._graphs.get(size)
        try:
            if graph is None:
                graph = self._graphs[size] = self._prepared(size)
            graph.inputs.fill([token for chunk in padded for token in chunk.token_ids], meta, places, taken)
            graph.fixed.renew(meta)
            if graph.replay is None:
                graph.replay = self._captured(graph, meta)
        except Exception as error:  # torch's, or a compiler's
            if graph is not None and graph.replay is not None:
                raise
            self._give_up(size, error)
            return False
        graph.replay()
        return True

    def _prepared(self, size: GraphSize) -> StepGraph:
        inputs = StepInputs(size, self._buffers, self._windows)
        way = self._mixed if size.is_mixed else self._decode
        assert way is not None
        return StepGraph(inputs=inputs, fixed=way.fixed(inputs))

    def _captured(self, graph: StepGraph, meta: PagedMeta) -> Callable[[], None]:
        inputs = graph.inputs
        places = inputs.tokens[None], inputs.positions[None], inputs.slots

        def logits_of() -> Tensor:
            return self._forward(*places, meta, graph.fixed.attention(meta), inputs.rows)

        if self._logits is None:  # beside the graphs' memory, where the next one writes
            found = logits_of()
            self._logits = torch.empty(self.sizes.max_rows, *found.shape[1:], dtype=found.dtype, device=self._device)
            del found
        logits = self._logits[: inputs.size.num_rows]

        def compute() -> None:
            logits.copy_(logits_of())

        return self._capture(compute)

    def _padding(self, size: GraphSize, chunks: Sequence[Chunk]) -> list[Chunk]:
        number = size.num_tokens - sum(len(chunk.token_ids) for chunk in chunks)
        lengths = [number] if size.is_mixed and number else [1] * number
        return [
            Chunk(
                token_ids=[0] * length,
                start=0,
                block_ids=[self._scratch_block] * -(-length // self.sizes.block_size),
                num_sequence_tokens=length,
            )
            for length in lengths
        ]

    def _give_up(self, size: GraphSize, error: Exception) -> None:
        self._graphs.pop(size, None)
        if isinstance(error, torch.OutOfMemoryError):
            self._is_full = True
        else:
            self._eager.add(_kind(size))
        logger.warning("steps run without a CUDA graph size=%s error=%s", size, reason_of(error))


def _kind(size: GraphSize) -> Kind:
    return size.is_mixed, size.has_trees
