"""Payloads between CPU workers of one machine: the receiver copies them out of the sender's blocks by itself.

The sender's KV lies in memory that others can map (`workers.model.shared_memory`); a range is announced with the ids of
the blocks that hold it, and costs the sender nothing more. Its blocks stay as they are until the ack. After an abort
they may be in other use while they are still read: what is read then goes into blocks of a transfer that never
completes, so nobody sees it. When the sender gives up on an ack (a lease or the stream has ended), its closing word
may be on its way already: so that word carries a seal, which the sender breaks before it reuses a block and the
receiver looks up after it has read the last one.
"""

import mmap
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from baton.errors import ConfigError
from baton.v1.kv_pb2 import FromSender, Handshake, Ranges
from workers.kv_transfer.lane_wire import own_lane
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.transport import Plain, TransportError
from workers.kv_transfer.wire import wire_range
from workers.model import shared_memory
from workers.model.contract import SharedKVStore
from workers.model.cpu.kv_copy import ForeignRange
from workers.model.places import PLAIN

NAME = "shm"
NUM_SEALS = 4096  # transfers of one link that may wait for their acks
_ID = "i"  # block ids as they travel: int32 of this machine


class ShmOut(Plain):
    name = NAME
    max_message_bytes = 256 << 20  # only block ids cross the stream
    min_push_bytes = 2 << 20  # the receiver copies so much in half a millisecond

    def __init__(self, store: SharedKVStore) -> None:
        if store.memory is None:
            raise ConfigError("kv.transport: 'shm' needs Linux and a C compiler; set kv.transport: auto")
        self._payloads, self._block_size = store.payloads, store.block_size
        self._seals = shared_memory.SharedMemory(NUM_SEALS * 8)
        self._seal_table = memoryview(self._seals.view).cast("Q")
        self._seal_of: dict[TransferKey, int] = {}
        self._num_sealed = 0
        self.store_address = f"{store.memory.handle}/{store.num_blocks}/{store.num_states}/{self._seals.handle}"

    def pack(self, spans: Sequence[Span]) -> FromSender:
        ranges = []
        for span in spans:
            blocks = self._payloads[span.index].blocks(span.start, span.end, self._block_size)
            ranges.append(wire_range(span))
            ranges[-1].payload = array(_ID, span.block_ids[blocks]).tobytes()
        return FromSender(ranges=Ranges(ranges=ranges))

    def seal(self, key: TransferKey) -> int:
        """A seal whose place is taken by a later one counts as broken: that transfer is tried again."""
        self._num_sealed += 1
        self._seal_of[key] = self._num_sealed
        self._seal_table[self._num_sealed % NUM_SEALS] = self._num_sealed
        return self._num_sealed

    def unseal(self, key: TransferKey | None) -> None:
        for ended in list(self._seal_of) if key is None else [key]:
            seal = self._seal_of.pop(ended, None)
            if seal is not None and self._seal_table[seal % NUM_SEALS] == seal:
                self._seal_table[seal % NUM_SEALS] = 0


class ShmIn(Plain):
    name = NAME

    def __init__(self, store: SharedKVStore, handshake: Handshake) -> None:
        """Raises: ConfigError: the sender's memory cannot be mapped here."""
        try:
            handle, num_blocks, num_states, seals = handshake.store_address.split("/")
            counts = int(num_blocks), int(num_states)
            place = own_lane(handshake.lane).sender if handshake.HasField("lane") else PLAIN
            _, nbytes = store.foreign_caches(None, *counts, place)
            self._memory: mmap.mmap = shared_memory.attach(handle, nbytes)  # stays mapped when the sender is gone
            self._seal_table = memoryview(shared_memory.attach(seals, NUM_SEALS * 8)).cast("Q")
        except (OSError, ValueError) as fault:
            raise ConfigError(f"kv.transport: 'shm' cannot map the sender's memory here: {fault}; use gloo") from fault
        self._caches, _ = store.foreign_caches(memoryview(self._memory), *counts, place)

    @contextmanager
    def unpack(self, message: Ranges) -> Iterator[Sequence[ForeignRange]]:
        for range_ in message.ranges:
            if range_.index >= len(self._caches) or len(range_.payload) % array(_ID).itemsize:
                raise TransportError(f"shm: payload {range_.index} with {len(range_.payload)} bytes of block ids")
        yield [ForeignRange(self._caches[range_.index], array(_ID, range_.payload)) for range_ in message.ranges]

    def is_sealed(self, seal: int) -> bool:
        return bool(self._seal_table[seal % NUM_SEALS] == seal)
