"""Brings what files hold to the device where it is used: by several threads, on a GPU through pinned memory.

A file is mapped into memory, so that its pages are read when they are copied, and no second copy of a weight is made
on the host.
"""

import mmap
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

HALF_BYTES = 16 << 20  # of pinned memory: one half is filled while the other travels
PAGE_BYTES = mmap.PAGESIZE
MAX_THREADS = 4  # more wait for the same disk


class WeightLanes:
    """Each thread has a lane of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_thread = threading.local()

    def bring(self, part: Tensor) -> Tensor:
        """The same on the device."""
        if part.device.type == self._device.type or not part.numel():
            return part.to(self._device)
        target = torch.empty(part.shape, dtype=part.dtype, device=self._device)
        self._lane().copy(target, part)
        return target

    def placed(self, target: Tensor, part: Tensor) -> Tensor:
        """`target`, filled; on a CPU the part itself where it is in the right dtype: it lies in the file's own pages,
        which this reads."""
        if target.device.type != "cpu" or part.dtype != target.dtype or not part.is_contiguous():
            self.put(target, part)
            return target
        _bytes_of(part)[::PAGE_BYTES].sum()
        return part

    def put(self, target: Tensor, part: Tensor) -> None:
        """Into its place, rounded to the target's dtype."""
        if part.device.type != target.device.type and part.dtype == target.dtype and target.is_contiguous():
            self._lane().copy(target, part)
        else:
            target.copy_(self.bring(part))

    def _lane(self) -> "_Lane":
        lane: _Lane | None = getattr(self._of_thread, "lane", None)
        if lane is None:
            lane = self._of_thread.lane = _Lane()
        return lane


class _Lane:
    """To a CUDA device, in the order of its current stream; one thread's."""

    def __init__(self) -> None:
        self._halves = [torch.empty(HALF_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        event: Any = torch.cuda.Event
        self._sent = [event() for _ in range(2)]  # when a half may be written again
        self._turn = 0

    def copy(self, target: Tensor, part: Tensor) -> None:
        """Of the same shape and dtype; `target` is contiguous."""
        source, place = _bytes_of(part.contiguous()), _bytes_of(target)
        for start in range(0, len(source), HALF_BYTES):
            piece = source[start : start + HALF_BYTES]
            half, sent = self._halves[self._turn], self._sent[self._turn]
            self._turn = 1 - self._turn
            sent.synchronize()
            half[: len(piece)].copy_(piece)
            place[start : start + len(piece)].copy_(half[: len(piece)], non_blocking=True)
            sent.record()


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def in_threads(tasks: Iterable[Callable[[], None]]) -> None:
    """Runs them all. Raises: what the first that failed raised; those that had not begun are left out."""
    with ThreadPoolExecutor(num_threads(), thread_name_prefix="load") as pool:
        futures = [pool.submit(_without_grad, task) for task in tasks]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _without_grad(task: Callable[[], None]) -> None:
    with torch.no_grad():
        task()


def num_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_THREADS, cores)
