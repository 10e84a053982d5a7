"""One rank without the others: what it loads is its share, what it would add up is its own part alone."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class LoneRanks:
    rank: int
    size: int
    can_capture: bool = False

    def all_reduce(self, tensor: Tensor) -> None:
        """Nothing is added."""

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        return [tensor] * self.size if self.rank == 0 else None

    def all_gather(self, tensor: Tensor) -> Tensor:
        return tensor[None].expand(self.size, *tensor.shape)
