"""Captures what a function launches in a CUDA graph."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

NUM_WARM_RUNS = 2  # before a capture, as torch asks


class Capture(Protocol):
    @property
    def nbytes(self) -> int:
        """Memory that the graphs hold together."""
        ...

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        """What launches all of it again, over the memory that it used. `compute` is run some times meanwhile.

        Raises: whatever `compute` raises; RuntimeError: it waits for the device, or else cannot be captured.
        """
        ...


class CUDACapture:
    """Graphs that share memory: one may run at a time, and what it wrote to memory of its own is the next one's."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda
        self._device = device
        self._pool = cuda.graph_pool_handle()
        self._aside = cuda.Stream(device)  # one for all: libraries keep memory for each stream

    @property
    def nbytes(self) -> int:
        """Without what the driver keeps of each launch."""
        cuda: Any = torch.cuda
        mine = tuple(self._pool)
        return sum(one["total_size"] for one in cuda.memory_snapshot() if tuple(one["segment_pool_id"]) == mine)

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        self._aside.wait_stream(current)
        with torch.cuda.stream(self._aside):
            for _ in range(NUM_WARM_RUNS):
                compute()
        current.wait_stream(self._aside)
        # The outer context: where a capture fails, torch leaves its own stream as the current one.
        # thread_local: links' threads allocate and wait meanwhile, which the default mode takes for a fault of theirs.
        capturing = torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local")
        with torch.cuda.stream(current), capturing:
            compute()
        replay: Callable[[], None] = graph.replay
        return replay
