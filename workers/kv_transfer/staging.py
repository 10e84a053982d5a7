"""Payloads of a device by way of the host: a few pinned buffers used in turn, copies on the link's own stream.

While the host reads or fills one buffer, the others are copied; a buffer is used again when its last copy is past. What
the device is and how a copy begins there is the maker's to say (`cuda`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from torch import Tensor

from workers.kv_transfer.fences import Fence, Moment
from workers.kv_transfer.wire import cut
from workers.model.contract import KVStore, Units

BUFFER_BYTES = 512 << 10  # some 20 us of PCIe 4: for the first of a message the host waits
NUM_BUFFERS = 4  # together one message of gRPC's

Begin = Callable[[Tensor, Tensor], Fence]  # (target, source): begins the copy; the fence is past when it is done


class Ring:
    """Of one thread. It ends with whoever leaves an iterator of it unfinished.

    Args:
        new_buffer: Of so many bytes of the host: 1-D uint8.
    """

    def __init__(
        self,
        new_buffer: Callable[[int], Tensor],
        begin: Begin,
        *,
        num_buffers: int = NUM_BUFFERS,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._begin = begin
        self._nbytes = buffer_bytes
        # That are free, the oldest first, and what each was last copied from or to.
        self._free: deque[tuple[Tensor, Fence]] = deque(
            (new_buffer(buffer_bytes), Moment()) for _ in range(num_buffers)
        )

    def to_host(self, source: Tensor) -> Iterator[np.ndarray]:
        """The bytes of a flat tensor of the device, in order; each array is valid until the next is taken."""
        waiting = deque(source.split(self._nbytes))  # type: ignore[no-untyped-call]
        under_way: deque[tuple[Tensor, Tensor, Fence]] = deque()
        while waiting or under_way:
            while waiting and self._free:
                piece, buffer = waiting.popleft(), self._take()
                host = buffer[: len(piece)]
                under_way.append((buffer, host, self._begin(host, piece)))
            buffer, host, fence = under_way.popleft()
            fence.wait()
            yield host.numpy()
            self._free.append((buffer, fence))

    def to_device(self, target: Tensor) -> Iterator[np.ndarray]:
        """What to fill, in order, to have a flat tensor of the device filled; each array is copied when the next is
        taken, or the end is reached. The copies go on when that is."""
        for piece in target.split(self._nbytes):  # type: ignore[no-untyped-call]
            buffer = self._take()
            host = buffer[: len(piece)]
            yield host.numpy()
            self._free.append((buffer, self._begin(piece, host)))

    def _take(self) -> Tensor:
        buffer, fence = self._free.popleft()
        fence.wait()
        return buffer


class Staging:
    """What gRPC's messages hold, from a store on a device and to it."""

    def __init__(self, store: KVStore, ring: Ring) -> None:
        self._store, self._ring = store, ring

    def read_all(self, units: Sequence[Units], places: Sequence[memoryview]) -> None:
        """As `KVStore.read_all`, into the host's memory."""
        flat = self._store.empty_payload(sum(map(len, places)))
        self._store.read_all(units, [flat[start:end] for start, end in cut([len(place) for place in places])])
        lay(self._ring.to_host(flat), map(_bytes, places))

    def on_device(self, payloads: Sequence[bytes]) -> list[Tensor]:
        """The same bytes where the store writes them from: there when the caller's stream is."""
        sizes = [len(payload) for payload in payloads]
        flat = self._store.empty_payload(sum(sizes))
        lay(map(_bytes, payloads), self._ring.to_device(flat))
        return [flat[start:end] for start, end in cut(sizes)]


def lay(sources: Iterable[np.ndarray], targets: Iterable[np.ndarray]) -> None:
    """Copies the sources' bytes, one after the other, over those of the targets, which have as many. An array of either
    is done with when the next is taken; both are taken to their ends."""
    rest = iter(targets)
    room = np.empty(0, dtype=np.uint8)
    for source in sources:
        at = 0
        while at < len(source):
            if not len(room):
                room = next(rest)
            size = min(len(room), len(source) - at)
            room[:size] = source[at : at + size]  # without Python's lock
            at, room = at + size, room[size:]
    left = len(room) + sum(map(len, rest))
    assert not left, f"{left} bytes are left over"


def _bytes(buffer: bytes | memoryview) -> np.ndarray:
    return np.frombuffer(buffer, dtype=np.uint8)
