"""Puts a layer's keys and values of all ranks' pieces into every rank's blocks (LASP-2H).

So each rank's cache is whole after every layer: attention is the usual one over its own piece's queries, and the next
chunk, a prefix hit or a hand-over finds all it needs on any rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.model.runner import WriteKV
from workers.parallel.division import Division
from workers.parallel.gathering import SequenceRanks


class SharedKeys:
    """Of one step; implements `workers.model.runner.WriteKV`.

    Args:
        write: Into this rank's blocks.
    """

    def __init__(
        self, ranks: SequenceRanks, division: Division, write: WriteKV, block_size: int, device: torch.device
    ) -> None:
        self._ranks, self._write = ranks, write
        self._mine = division.places_of(ranks.rank)
        self._slots = [
            torch.tensor(division.slots_of(rank, block_size)).to(device) for rank in range(ranks.size)
        ]  # of each rank's pieces
        self._most = max(map(len, self._slots))

    def __call__(self, key: Tensor, value: Tensor, k_rows: Tensor, v_rows: Tensor, slots: Tensor) -> None:
        gathering = self._ranks.gather(self._packed((key, value)), self._ranks.keys)
        self._write(key, value, k_rows, v_rows, slots)
        for rank, part in enumerate(gathering.wait().unbind(0)):
            if rank != self._ranks.rank:
                theirs = self._slots[rank]
                keys, values = part[:, :, : len(theirs)].unbind(0)  # [heads, tokens, dim]
                self._write(keys[None], values[None], k_rows, v_rows, theirs)

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
