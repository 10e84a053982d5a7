"""What a share of a model asks of the ranks beside it."""

from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    """One rank's view; all make the same calls in the same order, with tensors of the same shapes and dtypes."""

    rank: int
    size: int

    @property
    def can_capture(self) -> bool:
        """Whether its calls may be part of a CUDA graph."""
        ...

    def all_reduce(self, tensor: Tensor) -> None:
        """Adds up over the ranks, in place; contiguous. Every rank has the same bits afterwards."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        """Every rank's tensor, in order of rank, on rank 0; None on the others."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[ranks, *tensor.shape]: every rank's tensor, in order of rank, on every rank."""
        ...


class Total:
    """Adds a tensor up over the ranks, in place.

    Does nothing until `begin`: a model is tried alone while it is loaded (its shapes, its kernels), and what is tried
    must not depend on how far the others are.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._begun = False

    def begin(self) -> None:
        self._begun = True

    def __call__(self, tensor: Tensor) -> Tensor:
        if self._begun:
            self._ranks.all_reduce(tensor)
        return tensor
