"""A rank of `bench.sequence_parallel`: a process on one core, told over stdin what to run, and answering over stdout.

python -m bench.sequence_rank RANK SIZE CORE STORE    # STORE: host:port that rank 0 listens on
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bench.sequence_layers import Layer, Place, Recur, Stack, finish, make_layer
from bench.sequence_ring import Ring
from workers.model.linear import Effect, make_piece
from workers.parallel.gathering import SequenceRanks
from workers.parallel.sequence import LastState, linear_attention

TIMEOUT = timedelta(minutes=10)
NUM_GATHERS = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Attributes:
    kinds: One: a layer by itself; more: a stack, each with an MLP.
    num_ranks: Those that take part, from the first on.
    states: How linear layers pass theirs; lasp2, ring (LASP-1), or other: one rank does what any but the first does.
    lengths: Of the ranks' pieces; none for one rank.
    """

    kinds: Sequence[str]
    hidden: int
    num_tokens: int
    num_ranks: int = 1
    states: str = "lasp2"
    lengths: Sequence[int] = ()


class Rank:
    def __init__(self, group: Any, rank: int, size: int) -> None:
        self._group, self._rank, self._size = group, rank, size
        self._layers: dict[str, tuple[Layer, list[Layer]]] = {}
        self._recurs: dict[str, Recur] = {"lasp2": linear_attention, "ring": Ring(group), "other": other_rank}

    def run(self, run: Run) -> float:
        """Seconds from when all who take part begin to when this rank has its outputs and the last states."""
        layer, layers = self._made(run)
        together = run.num_ranks > 1
        ranks = SequenceRanks(self._group if together else None, rank=self._rank, size=run.num_ranks)
        lengths = run.lengths or [run.num_tokens]
        place = Place(ranks, lengths, self._recurs[run.states])
        x = torch.randn(lengths[self._rank], run.hidden)
        if together:
            self._group.barrier().wait()
        began_s = time.perf_counter()
        layer(x, place)
        finish(layers)
        return time.perf_counter() - began_s

    def _made(self, run: Run) -> tuple[Layer, list[Layer]]:
        key = f"{run.hidden} {run.kinds}"
        if key not in self._layers:
            self._layers = {key: self._make(run)}  # those of one setting at a time: they are large
        return self._layers[key]

    @staticmethod
    def _make(run: Run) -> tuple[Layer, list[Layer]]:
        if len(run.kinds) == 1:
            layer = make_layer(run.kinds[0], run.hidden, 0)
            return layer, [layer]
        stack = Stack(run.kinds, run.hidden)
        return stack, stack.layers

    def gather_s(self, num_floats: int) -> float:
        """Of one all-gather of so many floats by each rank."""
        ranks = SequenceRanks(self._group, rank=self._rank, size=self._size)
        part = torch.zeros(num_floats)
        self._group.barrier().wait()
        began_s = time.perf_counter()
        for _ in range(NUM_GATHERS):
            ranks.gather(part, ranks.states).wait()
        return (time.perf_counter() - began_s) / NUM_GATHERS


def other_rank(
    ranks: SequenceRanks, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, LastState]:
    """What `linear_attention` computes on a rank that is told the state before its piece; here it is known."""
    piece = make_piece(q, k, v, log_decay, beta, state)
    piece.effect()
    after = piece.advance(state)
    return piece.outputs(), LastState(lambda: after)


def fold_s(heads: int, d_k: int, d_v: int) -> float:
    """Of one effect of a delta rule's layer."""
    state = torch.zeros(heads, d_k, d_v)
    effect = Effect(contribution=state, transition=torch.zeros(heads, d_k, d_k))
    began_s = time.perf_counter()
    for _ in range(NUM_GATHERS):
        state = effect.after(state)
    return (time.perf_counter() - began_s) / NUM_GATHERS


def join(rank: int, size: int, address: str) -> Any:
    host, _, port = address.rpartition(":")
    store = TCPStore(host, int(port), is_master=rank == 0, timeout=TIMEOUT, wait_for_workers=False)
    gloo: Any = dist.ProcessGroupGloo  # its options are not in torch's type stubs
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host)]
    options._timeout = TIMEOUT
    options._threads = 1
    return gloo(store, rank, size, options)


def main() -> None:
    rank, size, core = (int(word) for word in sys.argv[1:4])
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    mine = Rank(join(rank, size, sys.argv[4]), rank, size)
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        if "gather" in told:
            answer = mine.gather_s(told["gather"])
        elif "fold" in told:
            answer = fold_s(*told["fold"])
        else:
            answer = mine.run(Run(**told))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
