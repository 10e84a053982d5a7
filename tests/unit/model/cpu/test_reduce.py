"""Sums in shared memory, with threads for ranks: right, the same on all ranks, and freed when a rank is gone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from workers.model.cpu import reduce
from workers.model.cpu.reduce import Reducer, segment_bytes

SLOT_BYTES = 256


class Ranks:
    def __init__(self, size: int) -> None:
        self.memory = [np.zeros(segment_bytes(SLOT_BYTES), dtype=np.uint8) for _ in range(size)]
        addresses = [one.ctypes.data for one in self.memory]
        self.reducers = [Reducer(addresses, rank=rank, slot_bytes=SLOT_BYTES) for rank in range(size)]

    def each(self, call: Callable[[int, Reducer], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.reducers)) as pool:
            return list(pool.map(call, range(len(self.reducers)), self.reducers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_sum_is_that_of_all_ranks_whatever_its_length(isa: str, size: int, dtype: torch.dtype) -> None:
    if not reduce.available():
        pytest.skip("no C compiler")
    ranks = Ranks(size)
    generator = torch.Generator().manual_seed(0)
    for count in (1, 7, 63, 64, 65, 128, 129, 1000):
        parts = [torch.randn(count, generator=generator).to(dtype) for _ in range(size)]
        wanted = torch.stack([part.float() for part in parts]).sum(0)
        mine = [part.clone() for part in parts]
        ranks.each(lambda rank, reducer, mine=mine: reducer.all_reduce(mine[rank]))
        assert all(torch.equal(one, mine[0]) for one in mine), "every rank has the same bits"
        torch.testing.assert_close(mine[0].float(), wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-5)


def test_the_first_rank_gets_every_ranks_tensor(isa: str) -> None:
    if not reduce.available():
        pytest.skip("no C compiler")
    ranks = Ranks(3)
    parts = [torch.arange(100.0).view(4, 25) + 1000 * rank for rank in range(3)]
    found = ranks.each(lambda rank, reducer: reducer.gather(parts[rank]))
    assert torch.equal(found[0], torch.stack(parts))
    assert found[1:] == [None, None]
    mine = [torch.ones(3) for _ in range(3)]
    ranks.each(lambda rank, reducer: reducer.all_reduce(mine[rank]))
    assert mine[2].tolist() == [3.0] * 3


def test_a_rank_that_waits_for_one_that_is_gone_is_freed() -> None:
    if not reduce.available():
        pytest.skip("no C compiler")
    ranks = Ranks(2)
    waiting = ranks.reducers[0]
    threading.Timer(0.1, waiting.abort).start()
    with pytest.raises(RuntimeError, match="the ranks beside this one are gone"):
        waiting.all_reduce(torch.ones(1))
