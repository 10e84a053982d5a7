"""What is written by hand is what protobuf writes."""

from hypothesis import given
from hypothesis import strategies as st

from baton.errors import OverloadedError
from baton.v1.kv_pb2 import FromSender, Ranges
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.outgoing import Span
from workers.kv_transfer.wire import failed_message, open_message, own_error, own_key, wire_key, wire_range

PAYLOADS = st.lists(st.integers(0, 20_000).map(lambda size: bytes(range(256)) * (size // 256) + b"x"), max_size=4)


@given(payloads=PAYLOADS, start=st.integers(0, 1 << 20))
def test_ranges_written_by_hand_are_those_of_protobuf(payloads: list[bytes], start: int) -> None:
    spans = [Span(TransferKey("r", 300, i), i, start + i, start + 200, ()) for i in range(len(payloads))]
    written, places = open_message([wire_range(span) for span in spans], list(map(len, payloads)))
    for place, payload in zip(places, payloads, strict=True):
        place[:] = payload
    ranges = [wire_range(span) for span in spans]
    for range_, payload in zip(ranges, payloads, strict=True):
        range_.payload = payload
    assert FromSender.FromString(written) == FromSender(ranges=Ranges(ranges=ranges))


def test_keys_and_errors_survive_the_wire() -> None:
    key = TransferKey("r", 2, 5)
    assert own_key(wire_key(key)) == key
    error = own_error(failed_message(key, OverloadedError("full")).failed.error)
    assert isinstance(error, OverloadedError)
    assert error.message == "full"
