"""Keys, ranges and errors as `kv.proto` writes them."""

import ctypes
from collections.abc import Sequence
from typing import Any

from baton.errors import BatonError, from_code
from baton.v1.kv_pb2 import Ack, Complete, FirstToken, FromReceiver, FromSender, Range, Ranges, Ticket, TransferFailed
from baton.v1.kv_pb2 import TransferKey as WireKey
from baton.v1.worker_pb2 import WorkerError
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Closing, Span
from workers.preempted import PreemptedError

_PyBytes_FromStringAndSize: Any = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_PyBytes_AsString: Any = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


def wire_key(key: TransferKey) -> WireKey:
    return WireKey(request_id=key.request_id, attempt=key.attempt, choice=key.choice)


def own_key(key: WireKey) -> TransferKey:
    return TransferKey(key.request_id, key.attempt, key.choice)


def wire_range(span: Span) -> Range:
    return Range(key=wire_key(span.key), index=span.index, start=span.start, end=span.end)


def open_message(ranges: Sequence[Range], sizes: Sequence[int]) -> tuple[bytes, list[memoryview]]:
    """FromSender(ranges=...) as protobuf writes it, and where in it the payloads of `sizes` bytes are to be put.

    Fill the views before the message goes anywhere: bytes are not expected to change. So no payload is copied twice.
    Fields are a tag (number << 3 | 2 for what has a length), the length, and the bytes:
    protobuf.dev/programming-guides/encoding.
    """
    heads = []
    total = 0
    for range_, size in zip(ranges, sizes, strict=True):
        head = range_.SerializeToString() + _tag(Range.PAYLOAD_FIELD_NUMBER, size)
        heads.append(_tag(Ranges.RANGES_FIELD_NUMBER, len(head) + size) + head)
        total += len(heads[-1]) + size
    opening = _tag(FromSender.RANGES_FIELD_NUMBER, total)
    message, view = _new_bytes(len(opening) + total)
    view[: len(opening)] = opening
    at = len(opening)
    places = []
    for head, size in zip(heads, sizes, strict=True):
        view[at : at + len(head)] = head
        at += len(head) + size
        places.append(view[at - size : at])
    return message, places


def _new_bytes(nbytes: int) -> tuple[bytes, memoryview]:
    """Bytes that are not set yet, which C's interface allows for as long as nobody else has them; and a view to set
    them by, valid while they live."""
    message = _PyBytes_FromStringAndSize(None, nbytes)
    address = _PyBytes_AsString(message)
    return message, memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")


def _tag(field: int, length: int) -> bytes:
    assert field < 16, "a one-byte tag"
    out = bytearray((field << 3 | 2,))
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def complete_message(key: TransferKey, closing: Closing, seal: int) -> FromSender:
    first_tokens = [FirstToken(choice=choice, token_id=token_id) for choice, token_id in closing.first_tokens]
    return FromSender(
        complete=Complete(
            key=wire_key(key),
            num_tokens=closing.num_tokens,
            num_ranges=closing.num_ranges,
            first_tokens=first_tokens,
            seal=seal,
        )
    )


def first_tokens_of(complete: Complete) -> tuple[tuple[int, int], ...]:
    return tuple((first.choice, first.token_id) for first in complete.first_tokens)


def ticket_message(key: TransferKey, num_cached_tokens: int) -> FromReceiver:
    return FromReceiver(ticket=Ticket(key=wire_key(key), num_cached_tokens=num_cached_tokens))


def ack_message(key: TransferKey) -> FromReceiver:
    return FromReceiver(ack=Ack(key=wire_key(key)))


def failed_message(key: TransferKey, error: BatonError) -> FromReceiver:
    return FromReceiver(failed=TransferFailed(key=wire_key(key), error=wire_error(error)))


def wire_error(error: BatonError) -> WorkerError:
    return WorkerError(code=error.code, message=error.message, retryable=error.retryable)


def own_error(error: WorkerError) -> BatonError:
    if error.code == PreemptedError.code:  # workers' own: not of the tree that everybody has
        return PreemptedError(error.message)
    return from_code(error.code, error.message)


def cut(nbytes: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open byte ranges of payloads laid one after the other."""
    offsets = []
    at = 0
    for size in nbytes:
        offsets.append((at, at + size))
        at += size
    return offsets
