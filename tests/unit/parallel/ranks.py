"""Ranks as threads of one process, joined by gloo."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import HashStore

from workers.parallel.gathering import SequenceRanks

T = TypeVar("T")
TIMEOUT = timedelta(seconds=30)


class Threads:
    """`run` calls a function once per rank, all at the same time."""

    def __init__(self, groups: list[Any], pool: ThreadPoolExecutor) -> None:
        self._groups, self._pool = groups, pool

    def run(self, function: Callable[[SequenceRanks], T]) -> list[T]:
        size = len(self._groups)
        ranks = [SequenceRanks(group, rank=rank, size=size) for rank, group in enumerate(self._groups)]
        return [future.result(60) for future in [self._pool.submit(function, one) for one in ranks]]


@contextlib.contextmanager
def threads(size: int) -> Iterator[Threads]:
    with ThreadPoolExecutor(size) as pool:
        store = HashStore()
        made = [pool.submit(_group, store, rank, size) for rank in range(size)]
        yield Threads([future.result(60) for future in made], pool)


def _group(store: HashStore, rank: int, size: int) -> Any:
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]
    options._timeout = TIMEOUT
    options._threads = 1
    return gloo(store, rank, size, options)
