"""What shares of a model ask of each other, over a torch process group; implements `tensor_parallel.ranks.Ranks`."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LEADER = 0


class GroupRanks:
    """One thread at a time; a call blocks until all ranks have made it, over NCCL the stream does.

    Raises: RuntimeError: over gloo, when a rank is gone.
    """

    def __init__(self, group: Any, *, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self.num_begun = 0  # calls of this rank so far
        self._group = group
        self._is_nccl = bool(group.name() == "nccl")

    @property
    def can_capture(self) -> bool:
        return self._is_nccl

    def all_reduce(self, tensor: Tensor) -> None:
        self.num_begun += 1
        there = self._there(tensor)
        self._group.allreduce([there]).wait()
        if there is not tensor:
            tensor.copy_(there)

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        self.num_begun += 1
        there = self._there(tensor.contiguous())
        options = dist.GatherOptions()
        options.rootRank = LEADER
        found = [torch.empty_like(there) for _ in range(self.size)] if self.rank == LEADER else None
        self._group.gather([] if found is None else [found], [there], options).wait()
        return None if found is None else [one.to(tensor.device) for one in found]

    def all_gather(self, tensor: Tensor) -> Tensor:
        self.num_begun += 1
        there = self._there(tensor.contiguous())
        found = [torch.empty_like(there) for _ in range(self.size)]
        self._group.allgather([found], [there]).wait()
        return torch.stack(found).to(tensor.device)

    def _there(self, tensor: Tensor) -> Tensor:
        """Where the group can read it: NCCL knows GPUs alone."""
        return tensor.cuda() if self._is_nccl and not tensor.is_cuda else tensor
