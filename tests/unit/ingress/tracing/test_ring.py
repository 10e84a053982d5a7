"""What is found in the ring, and by whom."""

from cluster.ingress.tracing.record import Asked, CallRecord
from cluster.ingress.tracing.ring import Ring


def record(request_id: str, key_name: str | None) -> CallRecord:
    return CallRecord(
        request_id=request_id,
        x_request_id="mine",
        trace=None,
        key_name=key_name,
        model="m",
        served_model="m",
        route="chat",
        arrived_s=0.0,
        arrived_at=0.0,
        asked=Asked(max_tokens=1, num_choices=1),
        phases=[],
        tracks=[],
        first_choices=[],
    )


def test_two_keys_that_choose_one_id_find_each_their_own() -> None:
    ring = Ring(keep=2)
    ring.begin(hers := record("a", "alice"))
    ring.begin(his := record("b", "bob"))
    assert (ring.find("mine", "alice"), ring.find("mine", "bob"), ring.find("mine")) == (hers, his, None)
    ring.end(hers)
    ring.end(his)
    ring.begin(newest := record("c", "bob"))
    ring.end(newest)
    assert (ring.find("mine", "alice"), ring.find("mine", "bob")) == (None, newest)
