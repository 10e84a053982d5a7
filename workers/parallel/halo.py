"""A short causal convolution over a prompt in pieces: each rank needs the last inputs of the tokens before its piece.

They are gathered from all ranks, since a piece may be shorter than the convolution reaches; so every rank also knows
the last inputs of the whole prompt, which the next chunk, or decode, continues from. The states' gather cannot carry
them: a piece's effect on the state is computed from the convolution's outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.parallel.gathering import SequenceRanks


class Halo:
    """Started with the last inputs of this rank's piece, so that the other inputs can be computed meanwhile."""

    def __init__(self, ranks: SequenceRanks, last: Tensor, lengths: Sequence[int], inputs: Tensor) -> None:
        """
        Args:
            last: [n, width]: this piece's last inputs, n = min(reach, the piece's length).
            lengths: Of every rank's piece, in tokens.
            inputs: [reach, width]: the last inputs before the prompt (zeros), or before this chunk of it. The same on
                every rank; reach is the kernel's size - 1.
        """
        self._rank, self._lengths, self._inputs = ranks.rank, lengths, inputs
        part = inputs.new_zeros(inputs.shape)
        part[len(inputs) - len(last) :] = last
        self._gathering = ranks.gather(part, ranks.inputs)

    def wait(self) -> Tensor:
        """[reach, width]: the inputs right before this rank's piece."""
        return self._inputs if self._rank == 0 else self._before(self._rank)

    def is_whole(self) -> bool:
        """Whether `last` would not wait."""
        return self._gathering.is_whole()

    def last(self) -> Tensor:
        """[reach, width]: the last inputs of all, the same on every rank. Waits for the ranks after this one too."""
        return self._before(len(self._lengths))

    def _before(self, rank: int) -> Tensor:
        reach = len(self._inputs)
        parts = self._gathering.first(rank)
        known = [part[max(reach - n, 0) :] for part, n in zip(parts, self._lengths, strict=False)]
        return torch.cat([self._inputs, *known])[-reach:]
