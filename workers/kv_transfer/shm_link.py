"""Payloads between CPU workers of one machine: the receiver copies them out of the sender's blocks by itself.

The sender's KV lies in memory that others can map (`workers.model.shared_memory`); a range is announced with the ids of
the blocks that hold it, and costs the sender nothing more. Its blocks stay as they are until the ack. After an abort
they may be in other use while they are still read: what is read then goes into blocks of a transfer that never
completes, so nobody sees it.
"""

import mmap
from array import array
from collections.abc import Iterable, Sequence

from baton.errors import ConfigError
from baton.v1.kv_pb2 import FromSender, Handshake, Ranges
from workers.kv_transfer.handoff import Span
from workers.kv_transfer.transport import Plain, TransportError
from workers.kv_transfer.wire import wire_range
from workers.model import shared_memory
from workers.model.contract import SharedKVStore
from workers.model.kv_copy import ForeignRange

NAME = "shm"
_ID = "i"  # block ids as they travel: int32 of this machine


class ShmSender(Plain):
    name = NAME
    max_message_bytes = 32 << 20  # only block ids cross the stream
    min_push_bytes = 2 << 20  # the receiver copies so much in half a millisecond

    def __init__(self, store: SharedKVStore) -> None:
        if store.memory is None:
            raise ConfigError("kv.transport: 'shm' needs Linux and a C compiler; set kv.transport: auto")
        self._block_size = store.block_size
        self.store_address = f"{store.memory.handle}/{store.num_blocks}"

    def pack(self, spans: Sequence[Span]) -> FromSender:
        ranges = []
        for span in spans:
            first, last = span.start // self._block_size, -(-span.end // self._block_size)
            ranges.append(wire_range(span))
            ranges[-1].payload = array(_ID, span.block_ids[first:last]).tobytes()
        return FromSender(ranges=Ranges(ranges=ranges))


class ShmReceiver(Plain):
    name = NAME

    def __init__(self, store: SharedKVStore, handshake: Handshake) -> None:
        """Raises: ConfigError: the sender's memory cannot be mapped here."""
        try:
            handle, _, count = handshake.store_address.partition("/")
            num_blocks = int(count)
            _, nbytes = store.foreign_caches(None, num_blocks)
            self._memory: mmap.mmap = shared_memory.attach(handle, nbytes)  # stays mapped when the sender is gone
        except (OSError, ValueError) as fault:
            raise ConfigError(f"kv.transport: 'shm' cannot map the sender's memory here: {fault}; use gloo") from fault
        self._caches, _ = store.foreign_caches(memoryview(self._memory), num_blocks)

    def unpack(self, message: Ranges) -> Iterable[ForeignRange]:
        for range_ in message.ranges:
            if range_.layer >= len(self._caches) or len(range_.payload) % array(_ID).itemsize:
                raise TransportError(f"shm: layer {range_.layer} with {len(range_.payload)} bytes of block ids")
            yield ForeignRange(self._caches[range_.layer], array(_ID, range_.payload))
