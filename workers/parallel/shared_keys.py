"""Puts a layer's keys and values of all ranks' pieces into every rank's blocks (LASP-2H).

A rank's queries see those of the ranks before it alone, which it waits for; attention is the usual one over its own
piece's queries. Those of later ranks are written when they come (`later`): so each rank's cache is whole when the step
ends, and the next chunk or a prefix hit finds all it needs on any rank; a hand-over pushes a layer when it is.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from workers.model.layer_cache import WriteKV
from workers.parallel.division import Division
from workers.parallel.gathering import SequenceRanks
from workers.parallel.later import Later


class SharedKeys:
    """Of one step; implements `workers.model.layer_cache.WriteKV`.

    Args:
        write: Into this rank's blocks.
    """

    def __init__(
        self,
        ranks: SequenceRanks,
        division: Division,
        write: WriteKV,
        block_size: int,
        device: torch.device,
        later: Later,
    ) -> None:
        self._ranks, self._write, self._later = ranks, write, later
        self._mine = division.places_of(ranks.rank)
        self._slots = [
            torch.tensor(division.slots_of(rank, block_size)).to(device) for rank in range(ranks.size)
        ]  # of each rank's pieces
        self._most = max(map(len, self._slots))

    def __call__(self, key: Tensor, value: Tensor, k_rows: Tensor, v_rows: Tensor, slots: Tensor) -> None:
        mine, size = self._ranks.rank, self._ranks.size
        gathering = self._ranks.gather(self._packed((key, value)), self._ranks.keys)
        self._write(key, value, k_rows, v_rows, slots)

        def keep(ranks: Iterable[int], parts: Tensor) -> None:
            for rank in ranks:
                theirs = self._slots[rank]
                keys, values = parts[rank, :, :, : len(theirs)].unbind(0)  # [heads, tokens, dim]
                self._write(keys[None], values[None], k_rows, v_rows, theirs)

        keep(range(mine), gathering.first(mine))
        self._later.put_off(gathering.is_whole, lambda: keep(range(mine + 1, size), gathering.wait()))

    def _packed(self, both: Sequence[Tensor]) -> Tensor:
        """[2, heads, most, dim]: of this rank's pieces, padded to the longest of all ranks'."""
        _, heads, _, dim = both[0].shape
        packed = both[0].new_empty((2, heads, self._most, dim))
        for target, rows in zip(packed, both, strict=True):
            begin = 0
            for place in self._mine:
                end = begin + place.stop - place.start
                target[:, begin:end] = rows[0, :, place]
                begin = end
        return packed
