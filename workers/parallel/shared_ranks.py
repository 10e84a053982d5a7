"""What ranks ask of each other where all are on one machine: sums and gathers in shared memory.

One core each of a Xeon (Sapphire Rapids), two ranks: see `bench.tensor_parallel` for what a sum costs here and over
gloo, whose threads have to be woken.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.model import shared_memory
from workers.model.cpu import exchange, reduce
from workers.model.cpu.exchange import Exchange
from workers.model.shared_memory import SharedMemory
from workers.parallel.collectives import GroupRanks

logger = logging.getLogger(__name__)
SLOT_BYTES = 256 << 10  # stays in the second-level cache
HANDLE_BYTES = 128


class SharedRanks:
    """Implements `workers.model.tensor_parallel.ranks.Ranks`; what the kernel does not do is the group's."""

    def __init__(self, group: GroupRanks, reducer: reduce.Reducer) -> None:
        self.rank, self.size = group.rank, group.size
        self.num_begun = 0  # calls of this rank so far
        self._group = group
        self._reducer = reducer

    @property
    def can_capture(self) -> bool:
        return self._group.can_capture

    def all_reduce(self, tensor: Tensor) -> None:
        self.num_begun += 1
        if tensor.dtype in reduce.DTYPES and tensor.device.type == "cpu":
            self._reducer.all_reduce(tensor)
        else:
            self._group.all_reduce(tensor)

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        self.num_begun += 1
        if tensor.device.type != "cpu":
            return self._group.gather(tensor)
        found = self._reducer.gather(tensor.contiguous())
        return None if found is None else list(found)

    def all_gather(self, tensor: Tensor) -> Tensor:
        self.num_begun += 1
        if tensor.device.type != "cpu":
            return self._group.all_gather(tensor)
        return self._reducer.all_gather(tensor.contiguous())

    def abort(self) -> None:
        self._reducer.abort()


def share_memory(group: GroupRanks) -> SharedRanks | None:
    """Every rank calls it at once; None, on all of them, where one cannot see another's memory."""
    found = _share(group, reduce.segment_bytes(SLOT_BYTES), reduce.available())
    if found is None:
        return None
    memories, addresses = found
    reducer = reduce.Reducer(addresses, rank=group.rank, slot_bytes=SLOT_BYTES, memories=memories)
    return SharedRanks(group, reducer)


def share_exchange(group: GroupRanks, ring_bytes: int) -> Exchange | None:
    """As `share_memory`.

    Args:
        ring_bytes: As `Exchange` takes it.
    """
    found = _share(group, exchange.segment_bytes(ring_bytes), exchange.available())
    if found is None:
        return None
    memories, addresses = found
    return Exchange(addresses, rank=group.rank, ring_bytes=ring_bytes, memories=memories)


def _share(group: GroupRanks, nbytes: int, has_kernel: bool) -> tuple[list[Any], list[int]] | None:
    """Memory of each rank that all see, and where; None on all of them if one does not."""
    own = _own_memory(nbytes) if has_kernel else None
    handles = _tell_all(group, own.handle if own is not None else "")
    found = _attach(handles, group.rank, own, nbytes) if own is not None and all(handles) else None
    agreed = torch.tensor([0.0 if found is None else 1.0])
    group.all_reduce(agreed)
    if found is None or agreed.item() != group.size:
        logger.info("ranks are joined through their process group rank=%d", group.rank)
        return None
    return found


def _own_memory(nbytes: int) -> SharedMemory | None:
    if not shared_memory.is_available():
        return None
    try:
        return SharedMemory(nbytes)
    except OSError as error:
        logger.warning("no memory to share with the ranks beside this one error=%s", error)
        return None


def _tell_all(group: GroupRanks, handle: str) -> list[str]:
    """Every rank's, in order; a sum of rows of which each rank fills its own."""
    rows = torch.zeros(group.size, HANDLE_BYTES)
    said = handle.encode()
    rows[group.rank, : len(said)] = torch.tensor(list(said), dtype=torch.float32)
    group.all_reduce(rows)
    return [bytes(row.to(torch.uint8).tolist()).rstrip(b"\0").decode() for row in rows]


def _attach(handles: list[str], rank: int, own: SharedMemory, nbytes: int) -> tuple[list[Any], list[int]] | None:
    memories: list[Any] = []
    for number, handle in enumerate(handles):
        try:
            view = own.view if number == rank else shared_memory.attach(handle, nbytes)
        except (OSError, ValueError) as error:
            logger.info("rank %d is not on this machine: %s", number, error)
            return None
        memories.append(view)
    return [own, *memories], [np.frombuffer(view, dtype=np.uint8).ctypes.data for view in memories]
