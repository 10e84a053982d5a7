"""Payloads over a torch process group of two ranks, one per link: gloo on CPU, NCCL between GPUs.

The sender (rank 0) hosts the rendezvous store on a port from the OS, on its own address alone; its name and an
unguessable prefix travel in the handshake. A message is the payloads of one announcement laid one after the other.
Every announced message is sent, since a gloo receive cannot be cancelled (see docs/kv_transfer.md). A dead peer
raises on both sides within milliseconds; a hung one after the timeout. Only this pair's group is dropped then.
gloo sends from and receives into CPU memory alone: on a GPU, messages are copied to pinned memory there and back.
"""

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from baton.errors import ConfigError
from baton.v1.kv_pb2 import FromSender, Handshake, Ranges
from workers.kv_transfer.fences import Fence, Moment
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.staging import Begin
from workers.kv_transfer.transport import MIN_PUSH_BYTES, Copied, TransportError, nbytes_of, read_into
from workers.kv_transfer.wire import cut, wire_range
from workers.model.contract import KVStore
from workers.process_groups import host_store, make_group

MAX_MESSAGE_BYTES = 4 << 20
MAX_IN_FLIGHT = 2  # messages handed to the group and not yet taken by the peer
_SENDER, _RECEIVER = 0, 1


def check_available(name: str) -> None:
    """Raises: ConfigError: this machine or this torch cannot do `name`."""
    if name == "nccl" and not (dist.is_nccl_available() and torch.cuda.is_available()):
        raise ConfigError(
            "kv.transport: 'nccl' needs a CUDA device and a torch built with NCCL; set kv.transport: auto"
        )
    if name == "gloo" and not dist.is_gloo_available():
        raise ConfigError("kv.transport: 'gloo' needs a torch built with gloo; set kv.transport: grpc")


class _Group(Copied):
    """One end of the pair."""

    def __init__(self, name: str, *, host: str, timeout_s: float) -> None:
        self.name = name
        self._host = host
        self._timeout = timedelta(seconds=timeout_s)
        self._store: Store | None = None
        self._group: Any = None

    def _join(self, store: Store, prefix: str, rank: int) -> None:
        self._store = store
        try:
            self._group = make_group(
                self.name, store, prefix, rank=rank, size=2, host=self._host, timeout=self._timeout
            )
        except RuntimeError as fault:  # torch's DistError is one
            raise TransportError(
                f"{self.name}: no group within {self._timeout.total_seconds():g} s: {fault}"
            ) from fault

    def _wait(self, work: Any) -> None:
        """Until the peer has the message, or this side does."""
        try:
            work.wait()
            if self.name == "nccl":
                torch.cuda.current_stream().synchronize()
        except RuntimeError as fault:
            raise TransportError(f"{self.name}: {_first_line(fault)}") from fault

    def abort(self) -> None:
        """Frees a blocked NCCL call; gloo's raise by themselves when the peer's socket closes."""
        if self.name == "nccl" and self._group is not None:
            self._group.abort()

    def close(self) -> None:
        if self._group is not None:
            self._group.shutdown()
        self._group = None
        self._store = None


class _Buffers:
    """Staging memory, used again: what is fresh from the system costs a fault per page."""

    def __init__(self, store: KVStore, *, is_pinned: bool) -> None:
        """`is_pinned`: CPU memory, for a store on a device; else they are where the store is."""
        self._store = store
        self._is_pinned = is_pinned
        self._free: deque[tuple[Tensor, Fence]] = deque()  # with what it was last copied from

    def take(self, nbytes: int) -> Tensor:
        """A free one that is large enough; one that is too small is let go."""
        while self._free:
            buffer, fence = self._free.popleft() if self._is_pinned else self._free.pop()  # the rested, the warm one
            fence.wait()
            if buffer.numel() >= nbytes:
                return buffer
        nbytes = max(nbytes, MAX_MESSAGE_BYTES)
        if self._is_pinned:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        made: Tensor = self._store.empty_payload(nbytes)
        return made

    def give_back(self, buffer: Tensor, fence: Fence | None = None) -> None:
        """`fence`: when the device has read it."""
        self._free.append((buffer, fence or Moment()))


class TorchOut(_Group):
    max_message_bytes = MAX_MESSAGE_BYTES
    min_push_bytes = MIN_PUSH_BYTES

    def __init__(self, name: str, *, store: KVStore, host: str, timeout_s: float, begin: Begin | None = None) -> None:
        """`begin`: where messages are the host's and the store a device's: begins a copy of one."""
        super().__init__(name, host=host, timeout_s=timeout_s)
        self._own_store, self.store_address = host_store(host, self._timeout)
        self.store_prefix = secrets.token_hex(8)
        self._kv_store = store
        self._begin = begin
        self._buffers = _Buffers(store, is_pinned=begin is not None)
        self._filled: Tensor | None = None  # announced, to be sent
        self._fence: Fence = Moment()  # when it is filled
        self._nbytes = 0  # of it
        self._in_flight: deque[tuple[Any, Tensor]] = deque()

    def connect(self) -> None:
        self._join(self._own_store, self.store_prefix, _SENDER)

    def pack(self, spans: Sequence[Span]) -> FromSender:
        self._nbytes = sum(nbytes_of(self._kv_store, span) for span in spans)
        self._filled = self._buffers.take(self._nbytes)
        if self._begin is None:
            read_into(self._kv_store, spans, self._filled)
        else:
            staged = self._kv_store.empty_payload(self._nbytes)
            read_into(self._kv_store, spans, staged)
            self._fence = self._begin(self._filled[: self._nbytes], staged)
        return FromSender(ranges=Ranges(ranges=map(wire_range, spans)))

    def flush(self) -> None:
        assert self._filled is not None, "flush follows pack"
        self._fence.wait()
        try:
            work = self._group.send([self._filled[: self._nbytes]], _RECEIVER, 0)
        except RuntimeError as fault:
            raise TransportError(f"{self.name}: {_first_line(fault)}") from fault
        self._in_flight.append((work, self._filled))
        self._filled = None
        while len(self._in_flight) > MAX_IN_FLIGHT:
            sent, buffer = self._in_flight.popleft()
            self._wait(sent)
            self._buffers.give_back(buffer)


class TorchIn(_Group):
    def __init__(
        self,
        name: str,
        *,
        store: KVStore,
        host: str,
        timeout_s: float,
        handshake: Handshake,
        begin: Begin | None = None,
    ) -> None:
        super().__init__(name, host=host, timeout_s=timeout_s)
        self._kv_store = store
        self._handshake = handshake
        self._expected: deque[tuple[Any, Tensor]] = deque()  # receives that are posted, and where they go
        self._begin = begin
        self._buffers = _Buffers(store, is_pinned=begin is not None)

    def connect(self) -> None:
        host, _, port = self._handshake.store_address.rpartition(":")
        try:
            store = TCPStore(host, int(port), is_master=False, timeout=self._timeout, wait_for_workers=False)
        except (RuntimeError, ValueError) as fault:
            raise TransportError(
                f"{self.name}: store {self._handshake.store_address!r}: {_first_line(fault)}"
            ) from fault
        self._join(store, self._handshake.store_prefix, _RECEIVER)

    def expect(self, message: Ranges) -> None:
        nbytes = sum(self._sizes(message))
        buffer = self._buffers.take(nbytes)
        try:
            work = self._group.recv([buffer[:nbytes]], _SENDER, 0)
        except RuntimeError as fault:
            raise TransportError(f"{self.name}: {_first_line(fault)}") from fault
        self._expected.append((work, buffer))

    @contextmanager
    def unpack(self, message: Ranges) -> Iterator[Sequence[Tensor]]:
        work, buffer = self._expected.popleft()
        self._wait(work)
        sizes = self._sizes(message)
        payload, fence = buffer[: sum(sizes)], None
        if self._begin is not None:
            payload = self._kv_store.empty_payload(len(payload))
            fence = self._begin(payload, buffer[: len(payload)])
        yield [payload[start:end] for start, end in cut(sizes)]
        self._buffers.give_back(buffer, fence)

    def _sizes(self, message: Ranges) -> list[int]:
        return [nbytes_of(self._kv_store, range_) for range_ in message.ranges]


def _first_line(fault: Exception) -> str:
    return str(fault).partition("\n")[0][:300]
