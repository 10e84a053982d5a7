"""Payloads between two processes on one GPU: the sender's staging memory, opened by the receiver.

NCCL refuses two ranks on one device. The announcement carries torch's CUDA IPC handle of one staging tensor per
message, in protobuf-free fixed framing (no pickle). torch counts references across the processes: the sender may
drop its tensor at once, the memory stays until the receiver has dropped its own.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from baton.v1.kv_pb2 import FromSender, Ranges
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.transport import MIN_PUSH_BYTES, Copied, TransportError, nbytes_of, read_into
from workers.kv_transfer.wire import cut, wire_range
from workers.model.contract import KVStore

# storage bytes, offset in the allocation, offset of the reference counter, event needed, then lengths of three handles
_HEAD = struct.Struct("<QQQ?HHH")


class CudaIpcOut(Copied):
    name = "cuda_ipc"
    max_message_bytes = 16 << 20  # only a handle crosses the stream
    min_push_bytes = MIN_PUSH_BYTES
    store_address = ""
    store_prefix = ""

    def __init__(self, store: KVStore) -> None:
        self._store = store

    def connect(self) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]

    def pack(self, spans: Sequence[Span]) -> FromSender:
        staging = self._store.empty_payload(sum(nbytes_of(self._store, span) for span in spans))
        read_into(self._store, spans, staging)
        torch.cuda.current_stream().synchronize()
        ranges = [wire_range(span) for span in spans]
        ranges[0].payload = encode_handle(staging)
        return FromSender(ranges=Ranges(ranges=ranges))

    def flush(self) -> None:
        """Nothing is left behind by `pack`."""

    def abort(self) -> None:
        """Nothing blocks here."""

    def close(self) -> None:
        _collect()  # memory that a dead receiver will not release


class CudaIpcIn(Copied):
    name = "cuda_ipc"

    def __init__(self, store: KVStore) -> None:
        self._store = store

    def connect(self) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]

    def expect(self, message: Ranges) -> None:
        """The handle came with the announcement."""

    @contextmanager
    def unpack(self, message: Ranges) -> Iterator[Sequence[Tensor]]:
        sizes = [nbytes_of(self._store, range_) for range_ in message.ranges]
        try:
            staging = decode_handle(message.ranges[0].payload, sum(sizes))
        except (RuntimeError, struct.error) as fault:
            raise TransportError(f"cuda_ipc: {fault}") from fault
        yield [staging[start:end] for start, end in cut(sizes)]
        torch.cuda.current_stream().synchronize()  # copies out of the sender's memory are done before it is released

    def abort(self) -> None:
        """Nothing blocks here."""

    def close(self) -> None:
        _collect()


def _collect() -> None:
    torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


def encode_handle(staging: Tensor) -> bytes:
    """Framed handle of a contiguous uint8 tensor that fills its storage."""
    assert staging.storage_offset() == 0, "a staging tensor begins its storage"
    storage: Any = staging.untyped_storage()
    shared: tuple[Any, ...] = storage._share_cuda_()
    _, handle, nbytes, offset, counter, counter_offset, event, needs_event = shared
    head = _HEAD.pack(nbytes, offset, counter_offset, needs_event, len(handle), len(counter), len(event))
    return b"".join((head, handle, counter, event))


def decode_handle(data: bytes, nbytes: int) -> Tensor:
    """The first `nbytes` bytes of the sender's staging tensor, on the current device. Raises: RuntimeError."""
    size, offset, counter_offset, needs_event, *lengths = _HEAD.unpack_from(data)
    handle, counter, event = (data[_HEAD.size :][start:end] for start, end in cut(lengths))
    if nbytes > size:
        raise RuntimeError(f"the message needs {nbytes} bytes, the shared storage has {size}")
    storage = torch.UntypedStorage._new_shared_cuda(
        torch.cuda.current_device(), handle, size, offset, counter, counter_offset, event, needs_event
    )
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)[:nbytes]
