"""Random records of requests, as hypothesis draws them."""

from typing import Any

from hypothesis import strategies as st

from baton.v1.worker_pb2 import PromptChunk, TokenOutput, WorkerTrace
from cluster.ingress.tracing.context import TraceContext
from cluster.ingress.tracing.record import Asked, CallRecord, Phase
from cluster.ingress.tracing.visit import Visit
from cluster.router.track import Attempt, Track

START_S, EPOCH_S = 1000.0, 1.7e9
TRACE = TraceContext(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="00f067aa0ba902b7", is_sampled=True)
SECONDS = st.floats(0, 5, allow_nan=False)


@st.composite
def traces(draw: st.DrawFn) -> WorkerTrace:
    """What a worker tells, however wrong its clock."""
    trace = WorkerTrace(
        age_s=draw(SECONDS), scheduled_s=draw(SECONDS), num_bytes=draw(st.integers(0, 1 << 30)), num_preemptions=0
    )
    at_s = draw(SECONDS)
    for _ in range(draw(st.integers(0, 4))):
        end_s = at_s + draw(SECONDS)
        trace.chunks.append(PromptChunk(start_s=at_s, end_s=end_s, num_tokens=7, num_context_tokens=3, num_steps=1))
        at_s = end_s
    for name in ("offered_s", "granted_s", "arrived_s"):
        if draw(st.booleans()):
            setattr(trace, name, draw(SECONDS))
    return trace


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    num_choices = draw(st.integers(1, 3))
    track = Track(draw(st.integers(1, 5000)), num_choices)
    now_s = START_S + draw(SECONDS)
    track.queued(now_s)
    if draw(st.booleans()):
        return track
    track.admitted(now_s + 0.001)
    for number in range(draw(st.integers(0, 3))):
        now_s += draw(SECONDS)
        prefill = draw(st.sampled_from((None, "prefill-0")))
        track.sent(
            Attempt(
                number=number,
                choices=tuple(range(num_choices)),
                sent_s=now_s,
                prefill_id=prefill,
                decode_id="decode-0",
                draft_id=draw(st.sampled_from((None, "draft-0"))),
                num_expected_tokens=0,
            )
        )
        for worker in ("prefill-0", "decode-0"):
            now_s += draw(SECONDS)
            track.heard(TokenOutput(attempt=number, trace=draw(traces())), worker, now_s)
        for _ in range(draw(st.integers(0, 5))):
            now_s += draw(SECONDS)
            output = TokenOutput(choice=draw(st.integers(0, num_choices - 1)), token_ids=[1, 2], num_drafted=2)
            track.wrote([output], now_s)
        end = draw(st.sampled_from((None, "ok", "lost", "preempted")))
        if end is not None:
            track.attempt_ended(number, end, "", now_s)
    return track


@st.composite
def visits(draw: st.DrawFn) -> Visit:
    record = CallRecord(
        request_id="a" * 32,
        x_request_id="x",
        trace=TRACE,
        key_name=None,
        model="demo",
        served_model="demo",
        route="chat",
        arrived_s=START_S,
        arrived_at=EPOCH_S,
        asked=Asked(max_tokens=5, num_choices=1),
        phases=[Phase("tokenize", START_S + 0.1, START_S + 0.2)],
        tracks=draw(st.lists(tracks(), min_size=1, max_size=2)),
        first_choices=[0, 3],
    )
    record.first_choices = record.first_choices[: len(record.tracks)]
    ended_s = START_S + draw(st.floats(0, 60))
    record.end(draw(st.sampled_from(("ok", "cancelled", "unavailable"))), "", ended_s)
    return visit(record, ended_s)


def visit(record: CallRecord | None, ended_s: float = START_S + 60, **changes: Any) -> Visit:
    given: dict[str, Any] = {
        "request_id": "x",
        "protocol": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "trace": TRACE,
        "arrived_s": START_S,
        "arrived_at": EPOCH_S,
        "status": "200",
    }
    made = Visit(**given | changes)
    made.record, made.ended_s = record, ended_s
    made.phases = record.phases if record is not None else []
    return made
