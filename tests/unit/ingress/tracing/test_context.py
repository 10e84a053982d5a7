"""W3C's trace context, read as its specification says, and sampled as OpenTelemetry does."""

import pytest

from cluster.ingress.tracing.context import context_of, is_in_ratio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_clients_trace_goes_on_and_its_decision_stands() -> None:
    for flags, is_sampled in (("01", True), ("00", False), ("03", True), ("02", False)):
        found = context_of([("traceparent", f"00-{TRACE}-{SPAN}-{flags}"), ("tracestate", "a=1,b@c=2")], 0.5)
        assert found is not None
        assert (found.trace_id, found.parent_id, found.is_sampled) == (TRACE, SPAN, is_sampled)
        assert found.state == "a=1,b@c=2"
        assert found.span_id not in (SPAN, "0" * 16)
        assert found.response == f"00-{TRACE}-{found.span_id}-0{int(is_sampled)}"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "nonsense",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01.more",
    ],
)
def test_what_is_malformed_is_as_if_it_had_not_been_sent(sent: str) -> None:
    headers = [("traceparent", sent), ("tracestate", "a=1")]
    assert context_of(headers, None) is None
    begun = context_of(headers, 1.0)
    assert begun is not None
    assert (begun.parent_id, begun.state, begun.is_sampled) == ("", "", True)
    assert begun.trace_id != TRACE


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    for sent in (f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes-after"):
        found = context_of([("traceparent", sent)], None)
        assert found is not None
        assert found.trace_id == TRACE
        assert not found.is_sampled, "nobody collects here"


def test_two_parents_are_none() -> None:
    assert context_of([("traceparent", PARENT), ("traceparent", PARENT)], None) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (["a=1", "b=2"], "a=1,b=2"),
        ([" a=1 , ,b=2 "], "a=1,b=2"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a=" + "x" * 600], ""),
        (["a=\x7f"], ""),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
    ],
)
def test_a_state_that_is_malformed_goes_and_the_trace_stays(states: list[str], kept: str) -> None:
    found = context_of([("traceparent", PARENT), *(("tracestate", state) for state in states)], 1.0)
    assert found is not None
    assert (found.trace_id, found.state) == (TRACE, kept)


def test_the_ratio_decides_as_opentelemetrys_sampler_does() -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    for ratio in (0.0, 0.1, 0.5, 1.0):
        sampler = TraceIdRatioBased(ratio)
        for number in range(200):
            trace_id = (number * 0x9E3779B97F4A7C15F39CC0605CEDC834) & ((1 << 128) - 1) or 1
            wanted = sampler.should_sample(None, trace_id, "x").decision.is_sampled()
            assert is_in_ratio(f"{trace_id:032x}", ratio) is wanted
