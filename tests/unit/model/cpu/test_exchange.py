"""Gathers in shared memory, with threads for ranks: begun at once, whole however ranks wait, freed when one is gone."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.model.cpu import exchange
from workers.model.cpu.exchange import Exchange, Part, segment_bytes

RING_BYTES = 1000  # no multiple of any part
pytestmark = pytest.mark.skipif(not exchange.available(), reason="no C compiler")


class Ranks:
    def __init__(self, size: int) -> None:
        self.memory = [np.zeros(segment_bytes(RING_BYTES), dtype=np.uint8) for _ in range(size)]
        addresses = [one.ctypes.data for one in self.memory]
        self.each_one = [Exchange(addresses, rank=rank, ring_bytes=RING_BYTES) for rank in range(size)]

    def each(self, call: Callable[[int, Exchange], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.each_one)) as pool:
            return list(pool.map(call, range(len(self.each_one)), self.each_one))


def part_of(rank: int, number: int, num_elements: int) -> Tensor:
    return torch.arange(num_elements) + 1000 * rank + 100_000 * number


def check(found: Tensor, number: int, num_elements: int) -> None:
    assert torch.equal(found, torch.stack([part_of(rank, number, num_elements) for rank in range(len(found))]))


def test_all_ranks_get_every_ranks_tensor_of_any_dtype() -> None:
    ranks = Ranks(3)
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        parts = [(torch.arange(50).view(2, 25) + 100 * rank).to(dtype) for rank in range(3)]
        found = ranks.each(lambda rank, one, parts=parts: one.begin(parts[rank]).wait(3))
        assert all(torch.equal(one, torch.stack(parts)) for one in found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 3, 5])
def test_gathers_of_any_size_are_whole_however_ranks_wait(size: int, seed: int) -> None:
    """Parts are smaller and larger than the ring; some ranks wait at once, others when much is begun."""
    sizes = [random.Random(seed).choice((0, 1, 7, 60, 125, 126, 1000)) for _ in range(60)]
    ranks = Ranks(size)

    def run(rank: int, one: Exchange) -> None:
        rng = random.Random(10 * seed + rank)
        begun: list[tuple[int, Part]] = []
        for number, count in enumerate(sizes):
            begun.append((number, one.begin(part_of(rank, number, count))))
            if rng.random() < 0.3 * rank:
                before = begun[-1][1].wait(rank)[:rank]
                assert torch.equal(before, torch.stack([part_of(r, number, count) for r in range(rank)]))
            while begun and rng.random() < 0.4:
                number, gathered = begun.pop(rng.randrange(len(begun)))
                check(gathered.wait(size), number, sizes[number])
        for number, gathered in begun:
            check(gathered.wait(size), number, sizes[number])
            assert gathered.is_there(size)
        assert not one._open

    ranks.each(run)


def test_a_rank_may_begin_more_than_are_kept_open_if_the_others_do() -> None:
    ranks = Ranks(2)
    count = 2 * exchange.MAX_OPEN + 3

    def run(rank: int, one: Exchange) -> Tensor:
        begun = [one.begin(part_of(rank, number, 1)) for number in range(count)]
        return torch.stack([gathered.wait(2) for gathered in begun])

    for found in ranks.each(run):
        for number in range(count):
            check(found[number], number, 1)


def test_the_first_rank_waits_for_nobody_and_another_for_those_before_it_alone() -> None:
    ranks = Ranks(3)
    first = ranks.each_one[0].begin(torch.tensor([7]))
    assert first.wait(0)[0].item() == 7
    second = ranks.each_one[1].begin(torch.tensor([8]))
    assert second.wait(1)[:2].flatten().tolist() == [7, 8]
    assert not first.is_there(2 + 1)
    assert first.is_there(2)
    ranks.each_one[2].begin(torch.tensor([9]))
    assert first.is_there(3)


def test_a_rank_that_waits_for_one_that_is_gone_is_freed() -> None:
    ranks = Ranks(2)
    waiting = ranks.each_one[0]
    gathered = waiting.begin(torch.ones(1))
    threading.Timer(0.1, waiting.abort).start()
    begun_s = time.monotonic()
    with pytest.raises(RuntimeError, match="the ranks beside this one are gone"):
        gathered.wait(2)
    assert time.monotonic() - begun_s < 5
    with pytest.raises(RuntimeError, match="gone"):
        waiting.begin(torch.ones(1))
