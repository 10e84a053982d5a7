"""All-gathers among the ranks that read a prompt together, started at once and waited for where the result is needed.

Every rank starts the same gathers in the same order. A rank that needs no other's part need not wait for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEADER = 0
TAG = 0


@dataclasses.dataclass(slots=True)
class Traffic:
    """What a rank's gathers moved: bytes of all ranks' parts together, its own too."""

    num_gathers: int = 0
    num_bytes: int = 0

    def add(self, num_bytes: int) -> None:
        self.num_gathers += 1
        self.num_bytes += num_bytes


class Gathering:
    """A gather under way; holds its tensors until it ends."""

    def __init__(self, work: Any, parts: Tensor, device: torch.device) -> None:
        self._work, self._parts, self._device = work, parts, device

    def wait(self) -> Tensor:
        """[ranks, ...]: every rank's part. Raises RuntimeError when a rank is gone, or silent for the timeout."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            self._parts = self._parts.to(self._device)
        return self._parts


class SequenceRanks:
    """The ranks that hold the pieces of a prompt, in order.

    Args:
        group: A torch process group (gloo or NCCL) of `size` ranks; None for one rank alone.
        gather_here: Gathers what is in the memory of CPUs where all ranks are on one machine, and waits for it: gives
            [ranks, ...] of a contiguous tensor.

    Attributes:
        states: What states of linear layers moved.
        inputs: What convolutions' inputs moved.
        keys: What keys and values of softmax layers moved.
        group: As given.
        num_begun: Calls of this rank so far; every rank makes the same.
    """

    def __init__(
        self, group: Any, *, rank: int, size: int, gather_here: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.rank, self.size = rank, size
        self.states, self.inputs, self.keys = Traffic(), Traffic(), Traffic()
        self.group = group
        self.num_begun = 0
        self._gather_here = gather_here
        self._is_nccl = bool(group is not None and group.name() == "nccl")

    def gather(self, part: Tensor, traffic: Traffic) -> Gathering:
        """Starts it. `part` has the same shape and dtype on every rank."""
        self.num_begun += 1
        device, part = part.device, self._there(part)
        if self._gather_here is not None and part.device.type == "cpu":
            traffic.add(self.size * part.nbytes)
            return Gathering(None, self._gather_here(part), device)
        parts = part.new_empty((self.size, *part.shape))
        traffic.add(parts.numel() * parts.element_size())
        if self.size == 1:
            parts[0] = part
            return Gathering(None, parts, device)
        # As bytes: gloo knows few types.
        sent, received = part.view(-1).view(torch.uint8), parts.view(self.size, -1).view(torch.uint8)
        return Gathering(self.group.allgather([list(received.unbind(0))], [sent]), parts, device)

    def to_leader(self, source: int, tensor: Tensor | None) -> None:
        """Moves what rank `source` gives, > 0, into what rank 0 gives, of the same shape and dtype, and waits for it.

        Every rank calls it; `tensor` is None on the others.
        """
        self.num_begun += 1
        if tensor is None:
            return
        there = self._there(tensor)
        if self.rank == source:
            self.group.send([there], LEADER, TAG).wait()
        else:
            self.group.recv([there], source, TAG).wait()
            if there is not tensor:
                tensor.copy_(there)

    def _there(self, tensor: Tensor) -> Tensor:
        """Contiguous, and where the group can read it: gloo gathers what is in a CPU's memory."""
        tensor = tensor.contiguous()
        return tensor.cpu() if self.group is not None and not self._is_nccl else tensor
