"""Captures what a function launches in a CUDA graph."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

NUM_WARM_RUNS = 2  # before a capture, as torch asks
T = TypeVar("T")


def capture(compute: Callable[[], T], device: torch.device, pool: Any = None) -> tuple[Any, T]:
    """The graph, and what `compute` returned while it was captured, which each replay writes anew.

    Args:
        pool: Of memory, shared with other graphs that do not run at the same time.
    Raises: whatever `compute` raises; RuntimeError: it waits for the device, or else cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    cuda: Any = torch.cuda
    current = torch.cuda.current_stream(device)
    aside = cuda.Stream(device)
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(NUM_WARM_RUNS):
            compute()
    current.wait_stream(aside)
    # The outer context: where a capture fails, torch leaves its own stream as the current one.
    # thread_local: links' threads allocate and wait meanwhile, which the default mode takes for a fault of theirs.
    capturing = torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
    with torch.cuda.stream(current), capturing:
        found = compute()
    return graph, found
