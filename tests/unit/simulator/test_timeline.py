"""How spans become the bars of a picture."""

from cluster.contracts.simulation import TimelineSpan
from cluster.simulator.timeline import Bar, lanes, merged


def span(lane: str, kind: str, start_s: float, end_s: float) -> TimelineSpan:
    return TimelineSpan(lane=lane, kind=kind, start_s=start_s, end_s=end_s)


def test_steps_of_one_kind_that_touch_are_one_bar() -> None:
    spans = [span("decode-0", "decode", i / 10, i / 10 + 0.099) for i in range(5)]
    assert merged(spans, min_gap_s=0.01) == (Bar(kind="decode", start_s=0.0, end_s=0.499),)


def test_a_pause_and_another_kind_end_a_bar() -> None:
    spans = [
        span("mixed-0", "decode", 0.0, 1.0),
        span("mixed-0", "decode", 2.0, 3.0),
        span("mixed-0", "prefill", 3.0, 4.0),
        span("mixed-0", "decode", 4.0, 5.0),
    ]
    assert [(bar.kind, bar.start_s) for bar in merged(spans, min_gap_s=0.1)] == [
        ("decode", 0.0),
        ("decode", 2.0),
        ("prefill", 3.0),
        ("decode", 4.0),
    ]


def test_workers_come_first_prefill_before_decode_then_requests_by_number() -> None:
    names = ["request 10", "decode-10", "decode-2", "request 9", "prefill-0"]
    found = lanes([span(name, "decode", 0.0, 1.0) for name in names], end_s=1.0)
    assert [lane.name for lane in found] == ["prefill-0", "decode-2", "decode-10", "request 9", "request 10"]


def test_many_requests_are_thinned_out_evenly() -> None:
    spans = [span(f"request {i}", "decode", i, i + 1.0) for i in range(1000)]
    found = lanes(spans, end_s=1000.0, max_requests=10)
    assert [lane.name for lane in found] == [f"request {i}" for i in range(0, 1000, 100)]
