"""Keys, ranges and errors as `kv.proto` writes them."""

from collections.abc import Sequence

from baton.errors import BatonError, from_code
from baton.v1.kv_pb2 import Ack, Complete, FirstToken, FromReceiver, FromSender, Range, Ranges, Ticket, TransferFailed
from baton.v1.kv_pb2 import TransferKey as WireKey
from baton.v1.worker_pb2 import WorkerError
from workers.kv_transfer.handoff import Closing, Span
from workers.kv_transfer.link import TransferKey


def wire_key(key: TransferKey) -> WireKey:
    return WireKey(request_id=key.request_id, attempt=key.attempt, choice=key.choice)


def own_key(key: WireKey) -> TransferKey:
    return TransferKey(key.request_id, key.attempt, key.choice)


def wire_range(span: Span) -> Range:
    return Range(key=wire_key(span.key), layer=span.layer, start=span.start, end=span.end)


def write_ranges(ranges: Sequence[Range], payloads: Sequence[memoryview]) -> bytes:
    """FromSender(ranges=...) with the payloads in place, as protobuf writes it, but copying each payload once only.

    Fields are a tag (number << 3 | 2 for what has a length), the length, and the bytes:
    protobuf.dev/programming-guides/encoding.
    """
    parts: list[bytes | memoryview] = []
    total = 0
    for range_, payload in zip(ranges, payloads, strict=True):
        head = range_.SerializeToString() + _tag(Range.PAYLOAD_FIELD_NUMBER, len(payload))
        opening = _tag(Ranges.RANGES_FIELD_NUMBER, len(head) + len(payload))
        parts += (opening, head, payload)
        total += len(opening) + len(head) + len(payload)
    return b"".join((_tag(FromSender.RANGES_FIELD_NUMBER, total), *parts))


def _tag(field: int, length: int) -> bytes:
    assert field < 16, "a one-byte tag"
    out = bytearray((field << 3 | 2,))
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def complete_message(key: TransferKey, closing: Closing) -> FromSender:
    first_tokens = [FirstToken(choice=choice, token_id=token_id) for choice, token_id in closing.first_tokens]
    return FromSender(
        complete=Complete(
            key=wire_key(key),
            num_tokens=closing.num_tokens,
            num_ranges=closing.num_ranges,
            first_tokens=first_tokens,
        )
    )


def first_tokens_of(complete: Complete) -> tuple[tuple[int, int], ...]:
    return tuple((first.choice, first.token_id) for first in complete.first_tokens)


def ticket_message(key: TransferKey, num_cached_tokens: int) -> FromReceiver:
    return FromReceiver(ticket=Ticket(key=wire_key(key), num_cached_tokens=num_cached_tokens))


def ack_message(key: TransferKey) -> FromReceiver:
    return FromReceiver(ack=Ack(key=wire_key(key)))


def failed_message(key: TransferKey, error: BatonError) -> FromReceiver:
    told = WorkerError(code=error.code, message=error.message, retryable=error.retryable)
    return FromReceiver(failed=TransferFailed(key=wire_key(key), error=told))


def own_error(error: WorkerError) -> BatonError:
    return from_code(error.code, error.message)


def cut(nbytes: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open byte ranges of payloads laid one after the other."""
    offsets = []
    at = 0
    for size in nbytes:
        offsets.append((at, at + size))
        at += size
    return offsets
