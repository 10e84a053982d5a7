"""Spans form one tree, each within the one above it, whatever workers' clocks say; and hold no text."""

import pytest
from hypothesis import given, settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind, StatusCode

from baton.v1.worker_pb2 import PromptChunk, TokenOutput, WorkerTrace
from cluster.ingress.openapi.timelines import RequestTimeline
from cluster.ingress.tracing.context import TraceContext
from cluster.ingress.tracing.otlp import OTLPSender, address
from cluster.ingress.tracing.record import Asked, CallRecord, Phase
from cluster.ingress.tracing.timeline_json import timeline_json
from cluster.ingress.tracing.visit import Visit
from cluster.router.track import Attempt, Track
from tests.unit.ingress.tracing.timelines import EPOCH_S, START_S, TRACE, visit, visits


def sent(one: Visit) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    assert OTLPSender("http://127.0.0.1:1", "replica", exporter).send([one])
    return list(exporter.get_finished_spans())


def tree(spans: list[ReadableSpan]) -> dict[int, ReadableSpan]:
    return {span.context.span_id: span for span in spans}


@settings(max_examples=60, deadline=None)
@given(visits())
def test_every_span_lies_within_its_parent_and_all_are_of_one_trace(one: Visit) -> None:
    spans = sent(one)
    by_id = tree(spans)
    assert len(by_id) == len(spans)
    (root,) = [span for span in spans if span.parent is None]
    assert root.kind is SpanKind.SERVER
    for span in spans:
        assert f"{span.context.trace_id:032x}" == TRACE.trace_id
        assert span.start_time <= span.end_time
        assert all(span.start_time <= event.timestamp <= span.end_time for event in span.events)
        if span is not root:
            parent = by_id[span.parent.span_id]
            assert parent.start_time <= span.start_time
            assert span.end_time <= parent.end_time


@settings(max_examples=60, deadline=None)
@given(visits())
def test_the_timeline_has_the_shape_that_is_described(one: Visit) -> None:
    assert one.record is not None
    RequestTimeline.model_validate(timeline_json(one.record, START_S + 60, "replica"))


def served() -> CallRecord:
    """Prefill reads two chunks and hands over; decode writes three tokens, one of them guessed; asked over a retry."""
    track = Track(40, 1)
    track.queued(START_S + 0.1)
    track.admitted(START_S + 0.2)
    for number, sent_s in enumerate((0.3, 1.0)):
        track.sent(
            Attempt(
                number=number,
                choices=(0,),
                sent_s=START_S + sent_s,
                prefill_id="prefill-0",
                decode_id="decode-0",
                draft_id=None,
                num_expected_tokens=16,
            )
        )
        if not number:
            track.attempt_ended(0, "lost", "prefill-0: gone", START_S + 0.9)
    chunks = [
        PromptChunk(start_s=0.1, end_s=0.2, num_tokens=16, num_context_tokens=16, num_steps=1),
        PromptChunk(start_s=0.2, end_s=0.3, num_tokens=8, num_context_tokens=32, num_steps=1),
    ]
    read = TokenOutput(attempt=1, num_cached_tokens=16, trace=WorkerTrace(age_s=0.3, scheduled_s=0.1, chunks=chunks))
    track.heard(read, "prefill-0", START_S + 1.3)
    track.wrote([TokenOutput(token_ids=[5])], START_S + 1.3)
    taken = WorkerTrace(age_s=0.4, scheduled_s=0.3, granted_s=0.05, arrived_s=0.25, num_bytes=4096)
    track.heard(TokenOutput(attempt=1, trace=taken), "decode-0", START_S + 1.5)
    track.wrote([TokenOutput(token_ids=[6, 7], num_drafted=3)], START_S + 1.5)
    track.attempt_ended(1, "ok", "", START_S + 1.5)
    record = CallRecord(
        request_id="r" * 32,
        x_request_id="x",
        trace=TRACE,
        key_name="alice",
        model="demo",
        served_model="demo",
        route="chat",
        arrived_s=START_S,
        arrived_at=EPOCH_S,
        asked=Asked(max_tokens=9, num_choices=1, temperature=0.5, seed=3),
        phases=[Phase("render", START_S, START_S + 0.05), Phase("tokenize", START_S + 0.05, START_S + 0.1)],
        tracks=[track],
        first_choices=[0],
    )
    record.finish_reasons[0] = "length"
    record.end("ok", "", START_S + 1.6)
    return record


def test_a_request_across_ingress_queue_prefill_link_decode_and_draft() -> None:
    spans = sent(visit(served(), START_S + 1.7))
    by_id = tree(spans)

    def above(span: ReadableSpan) -> str:
        return by_id[span.parent.span_id].name if span.parent is not None else ""

    assert [(span.name, above(span)) for span in spans] == [
        ("chat demo", ""),
        ("ingress", "chat demo"),
        ("queue", "chat demo"),
        ("attempt", "chat demo"),
        ("attempt", "chat demo"),
        ("prefill", "attempt"),
        ("chunk", "prefill"),
        ("chunk", "prefill"),
        ("transfer", "attempt"),
        ("decode", "attempt"),
        ("draft", "decode"),
    ]
    root, lost, prefill, transfer, draft = spans[0], spans[3], spans[5], spans[8], spans[10]
    assert root.attributes == {
        "baton.request_id": "x",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "baton",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.response.id": "r" * 32,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.response.time_to_first_chunk": pytest.approx(1.3),
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "baton.draft.tokens": 3,
        "baton.draft.accepted_tokens": 1,
    }
    assert (lost.status.status_code, lost.attributes["error.type"]) == (StatusCode.ERROR, "lost")
    assert prefill.attributes["service.instance.id"] == "prefill-0"
    assert transfer.attributes["baton.bytes"] == 4096
    assert transfer.attributes["baton.hidden_s"] == pytest.approx(0.15, abs=0.001)
    assert draft.attributes["baton.draft.accepted_tokens"] == 1
    assert root.start_time == int(EPOCH_S * 1e9)


def test_names_are_those_of_the_genai_conventions() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    used = {name for span in sent(visit(served())) for name in span.attributes if name.startswith("gen_ai.")}
    assert used <= known


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": "503", "error_code": "unavailable"}, "unavailable"),
        ({"status": "500"}, "500"),
        ({"status": "404"}, None),
        ({"protocol": "grpc", "status": "UNAVAILABLE", "error_code": "unavailable"}, "unavailable"),
        ({"protocol": "grpc", "status": "NOT_FOUND", "error_code": "model_not_found"}, None),
    ],
)
def test_a_request_without_a_call_has_one_span_and_the_servers_faults_are_errors(
    changes: dict[str, str], error: str | None
) -> None:
    (span,) = sent(visit(None, **changes))
    assert span.attributes.get("error.type") == error
    assert span.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)


def test_the_clients_span_is_the_parent_and_its_state_goes_on() -> None:
    trace = TraceContext(
        trace_id=TRACE.trace_id, span_id=TRACE.span_id, parent_id="b7ad6b7169203331", is_sampled=True, state="a=1"
    )
    (span,) = sent(visit(None, trace=trace))
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.parent.is_remote
    assert span.context.trace_state.to_header() == "a=1"


def test_a_collectors_address_may_have_the_path_or_not() -> None:
    for given_ in ("http://c:4318", "http://c:4318/", "http://c:4318/v1/traces", "http://c:4318/v1/traces/"):
        assert address(given_) == "http://c:4318/v1/traces"
