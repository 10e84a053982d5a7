"""All-gathers among the ranks that read a prompt together, started at once and waited for where the result is needed.

Every rank starts the same gathers in the same order. A rank that needs no other's part need not wait for it; one that
needs the first ranks' parts alone waits for those where all ranks share memory, elsewhere for the whole gather.
"""

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.model.cpu.exchange import Exchange

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


class Parts(Protocol):
    """What the ranks give, as it comes."""

    def is_there(self, num_ranks: int) -> bool: ...

    def wait(self, num_ranks: int) -> Tensor:
        """[ranks, ...], of which those of the first `num_ranks` are there; raises RuntimeError."""
        ...


class _Grouped:
    """Through a process group: all or nothing. `work` None: it is there."""

    def __init__(self, work: Any, parts: Tensor) -> None:
        self._work, self._parts = work, parts

    def is_there(self, num_ranks: int) -> bool:
        return self._work is None or bool(self._work.is_completed())

    def wait(self, num_ranks: int) -> Tensor:
        if self._work is not None and num_ranks:
            self._work.wait()
            self._work = None
        return self._parts


class Gathering:
    """A gather under way; holds its tensors until it ends."""

    def __init__(self, parts: Parts, num_ranks: int, device: torch.device) -> None:
        self._parts, self._num_ranks, self._device = parts, num_ranks, device
        self._whole: Tensor | None = None

    def is_whole(self) -> bool:
        """Whether `wait` would not."""
        return self._whole is not None or self._parts.is_there(self._num_ranks)

    def wait(self) -> Tensor:
        """[ranks, ...]: every rank's part. Raises RuntimeError when a rank is gone, or silent for the timeout."""
        if self._whole is None:
            self._whole = self._parts.wait(self._num_ranks).to(self._device)
        return self._whole

    def first(self, num_ranks: int) -> Tensor:
        """[num_ranks, ...]: those of the first ranks; raises as `wait` does."""
        if self._whole is None and num_ranks < self._num_ranks and self._device.type == "cpu":
            return self._parts.wait(num_ranks)[:num_ranks]
        return self.wait()[:num_ranks]


class SequenceRanks:
    """The ranks that hold the pieces of a prompt, in order.

    Args:
        group: A torch process group (gloo or NCCL) of `size` ranks; None for one rank alone.
        exchange: Gathers what is in the memory of CPUs where all ranks are on one machine.

    Attributes:
        states: What states of linear layers moved.
        inputs: What convolutions' inputs moved.
        keys: What keys and values of softmax layers moved.
        group: As given.
        num_begun: Calls of this rank so far; every rank makes the same.
        pace_s: The longest time that it took from one gather to the next, in the step that it computes or the last one.
    """

    def __init__(self, group: Any, *, rank: int, size: int, exchange: "Exchange | None" = None) -> None:
        self.rank, self.size = rank, size
        self.states, self.inputs, self.keys = Traffic(), Traffic(), Traffic()
        self.group = group
        self.num_begun = 0
        self.pace_s = 0.0
        self._gathered_s = time.monotonic()
        self._exchange = exchange
        self._is_nccl = bool(group is not None and group.name() == "nccl")

    def begin_step(self) -> None:
        """Call it before the first gather of a step."""
        self.pace_s, self._gathered_s = 0.0, time.monotonic()

    def gather(self, part: Tensor, traffic: Traffic) -> Gathering:
        """Starts it. `part` has the same shape and dtype on every rank."""
        self.num_begun += 1
        now_s = time.monotonic()
        self.pace_s, self._gathered_s = max(self.pace_s, now_s - self._gathered_s), now_s
        device, part = part.device, self._there(part)
        traffic.add(self.size * part.nbytes)
        if self._exchange is not None and part.device.type == "cpu":
            return Gathering(self._exchange.begin(part), self.size, device)
        parts = part.new_empty((self.size, *part.shape))
        if self.size == 1:
            parts[0] = part
            return Gathering(_Grouped(None, parts), self.size, device)
        # As bytes: gloo knows few types.
        sent, received = part.view(-1).view(torch.uint8), parts.view(self.size, -1).view(torch.uint8)
        work = self.group.allgather([list(received.unbind(0))], [sent])
        return Gathering(_Grouped(work, parts), self.size, device)

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

    def skip(self) -> None:
        """Counts what the other ranks alone wait for, so that all count alike."""
        self.num_begun += 1

    def _there(self, tensor: Tensor) -> Tensor:
        """Contiguous, and where the group can read it: gloo gathers what is in a CPU's memory."""
        tensor = tensor.contiguous()
        return tensor.cpu() if self.group is not None and not self._is_nccl else tensor
