"""What a rank puts off until the ranks after it have told their parts: nothing in a layer waits for those."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.model.linear.recurrence import Inputs, inputs
from tests.unit.parallel.ranks import threads
from workers.model.contract import Chunk, Row
from workers.model.cpu import exchange
from workers.model.cpu.exchange import Exchange, segment_bytes
from workers.model.hybrid.mixer import Recurrence
from workers.model.hybrid.states import States, rows_of
from workers.model.layer_cache import copy_rows
from workers.parallel.division import Division, divide
from workers.parallel.gathering import SequenceRanks
from workers.parallel.later import Later
from workers.parallel.shared_keys import SharedKeys
from workers.parallel.shared_states import SharedStates

NUM_TOKENS, BLOCK_SIZE, SLOT, CHANNELS = 22, 4, 1, 6
RING_BYTES = 1 << 16
CPU = torch.device("cpu")
CHUNK = Chunk(
    token_ids=range(NUM_TOKENS), start=0, block_ids=[5, 0, 3, 1, 4, 2], num_sequence_tokens=NUM_TOKENS, state_id=SLOT
)


def test_what_is_put_off_is_done_in_order_and_as_soon_as_it_can_be() -> None:
    done: list[str] = []
    there: set[str] = set()

    def put_off(later: Later, name: str) -> None:
        later.put_off(lambda: name in there, lambda: done.append(name))

    later = Later()
    there.add("a")
    put_off(later, "a")
    later.after(lambda: done.append("after a"))
    assert done == ["a", "after a"]
    put_off(later, "b")
    later.after(lambda: done.append("after b"))
    put_off(later, "c")
    there.add("c")
    later.look()
    assert done == ["a", "after a"], "c is not done before b"
    there.add("b")
    put_off(later, "d")
    assert done[2:] == ["b", "after b", "c"]
    later.finish()
    assert done[5:] == ["d"]


class Rank:
    """Two layers of linear attention and one that attends, of which it has a piece."""

    def __init__(self, ranks: SequenceRanks, division: Division, given: Inputs) -> None:
        piece = division.pieces[0][ranks.rank]
        self.place = slice(piece.start, piece.stop)
        self.parts = {layer: new_parts(given) for layer in range(2)}
        self.keys = torch.zeros(2, 6 * BLOCK_SIZE, 2, 3)
        self.later = Later()
        self._states = SharedStates(ranks, division, self.parts, CPU, self.later)
        self._keys = SharedKeys(ranks, division, copy_rows, BLOCK_SIZE, CPU, self.later)
        self._slots = torch.tensor(division.slots_of(ranks.rank, BLOCK_SIZE))

    def run(self, given: Inputs, x: Tensor, kv: Tensor, convolution: nn.Conv1d) -> list[Tensor]:
        out = []
        for layer in range(2):
            out.append(self._states.convolve(layer, x[self.place], convolution))
            out.append(self._states.recur(layer, rows_of(Recurrence(*given.args()[:-1]), self.place)))
            self._keys(*kv[:, None, :, self.place], *self.keys, self._slots)
        return out


def new_parts(given: Inputs) -> list[Tensor]:
    return [torch.zeros(3, *given.state.shape), torch.zeros(3, 2, 3, CHANNELS // 2)]


@pytest.mark.skipif(not exchange.available(), reason="no C compiler")
@pytest.mark.parametrize("kind", ["scalar", "delta-scalar"])
@torch.inference_mode()
def test_no_rank_waits_in_a_layer_for_one_after_it(kind: str) -> None:
    size = 3
    random = torch.Generator().manual_seed(4)
    given = inputs(kind, "usual", NUM_TOKENS)
    x, kv = torch.randn(NUM_TOKENS, CHANNELS, generator=random), torch.randn(2, 2, NUM_TOKENS, 3, generator=random)
    convolution = nn.Conv1d(CHANNELS, CHANNELS, 4, groups=CHANNELS)
    division = divide([CHUNK], [Row(0, 0)], size, over_tokens=2)
    assert division is not None
    memory = [np.zeros(segment_bytes(RING_BYTES), dtype=np.uint8) for _ in range(size)]
    addresses = [one.ctypes.data for one in memory]
    is_through = [threading.Event() for _ in range(size)]

    def run(rank: int) -> tuple[Rank, list[Tensor]]:
        with torch.inference_mode():
            shared = Exchange(addresses, rank=rank, ring_bytes=RING_BYTES)
            mine = Rank(SequenceRanks(None, rank=rank, size=size, exchange=shared), division, given)
            assert rank == 0 or is_through[rank - 1].wait(10), "an earlier rank waits for a later one"
            out = mine.run(given, x, kv, convolution)
            is_through[rank].set()
            mine.later.finish()
            return mine, out

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(run, range(size)))
    parts = {layer: new_parts(given) for layer in range(2)}
    alone = States(parts, [CHUNK], CPU)
    for layer in range(2):
        convolved, out = alone.convolve(layer, x, convolution), alone.recur(layer, Recurrence(*given.args()[:-1]))
        torch.testing.assert_close(torch.cat([outs[2 * layer] for _, outs in found]), convolved)
        torch.testing.assert_close(torch.cat([outs[2 * layer + 1] for _, outs in found]), out, rtol=1e-4, atol=1e-5)
    for mine, _ in found:
        for layer in range(2):
            assert torch.equal(mine.parts[layer][0], found[0][0].parts[layer][0]), "the same bits on every rank"
            torch.testing.assert_close(mine.parts[layer][0], parts[layer][0], rtol=1e-4, atol=1e-5)
            assert torch.equal(mine.parts[layer][1], parts[layer][1])
        slots = [CHUNK.block_ids[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(NUM_TOKENS)]
        assert torch.equal(mine.keys[:, slots], kv.transpose(1, 2))


def test_the_first_rank_waits_for_nobody_over_a_process_group_either() -> None:
    division = divide([CHUNK], [Row(0, 0)], 2, over_tokens=2)
    assert division is not None
    kv = torch.randn(2, 2, NUM_TOKENS, 3, generator=torch.Generator().manual_seed(4))
    is_through = threading.Event()

    def run(ranks: SequenceRanks) -> Tensor:
        assert ranks.rank == 0 or is_through.wait(10), "the first rank waits for the second"
        keys, later = torch.zeros(2, 6 * BLOCK_SIZE, 2, 3), Later()
        slots = torch.tensor(division.slots_of(ranks.rank, BLOCK_SIZE))
        piece = division.pieces[0][ranks.rank]
        write = SharedKeys(ranks, division, copy_rows, BLOCK_SIZE, CPU, later)
        write(*kv[:, None, :, piece.start : piece.stop], *keys, slots)
        is_through.set()
        later.finish()
        return keys

    with threads(2) as pair:
        for keys in pair.run(run):
            slots = [CHUNK.block_ids[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(NUM_TOKENS)]
            assert torch.equal(keys[:, slots], kv.transpose(1, 2))


def test_the_pace_of_a_rank_is_that_of_its_slowest_layer_in_this_step() -> None:
    alone = SequenceRanks(None, rank=0, size=1)
    for pause_s in (0.2, 0.0):
        alone.begin_step()
        for wait_s in (0.0, pause_s, 0.0):
            time.sleep(wait_s)
            alone.gather(torch.ones(1), alone.keys)
        assert alone.pace_s >= pause_s
    assert alone.pace_s < 0.2, "that of the step before"
