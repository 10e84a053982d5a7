"""The spans of a visit: what a collector is told of it, made when it is over.

Invariant: a span lies within the one above it; no attribute holds text or tokens of prompt or answer. Names and
attributes are OpenTelemetry's where it has some (GenAI, HTTP, RPC), else below `baton.`. Nothing of OpenTelemetry is
imported here: `export` makes its objects.
"""

from collections.abc import Iterator, Mapping

from cluster.ingress.tracing.attempt_spans import attempt_span
from cluster.ingress.tracing.record import CallRecord
from cluster.ingress.tracing.sketch import Event, Sketch, Value
from cluster.ingress.tracing.visit import GRPC, Visit
from cluster.router.track import Track

PROVIDER = "baton"
_COMPLETION_ROUTES = ("completions",)


def visit_span(visit: Visit) -> Sketch:
    """The whole tree; of a visit that has ended."""
    assert visit.ended_s is not None
    record = visit.record
    root = Sketch(
        name=_name(visit, record),
        start_s=visit.arrived_s,
        end_s=visit.ended_s,
        attributes={**_of_protocol(visit), **(_of_call(record) if record is not None else {})},
        error=_error(visit, record),
        children=[],
    )
    root.children += _of_ingress(visit)
    if record is not None:
        for number, track in enumerate(record.tracks):
            root.children += _of_prompt(track, number if len(record.tracks) > 1 else None, visit.ended_s)
        if (first_s := record.ttft_s) is not None:
            root.events.append(Event("first token", record.arrived_s + first_s))
    root.fit()
    return root


def _of_ingress(visit: Visit) -> Iterator[Sketch]:
    """What was done before the request was queued: one span, for each costs a tenth of what tracing a request does."""
    if visit.phases:
        yield Sketch(
            name="ingress",
            start_s=visit.phases[0].start_s,
            end_s=visit.phases[-1].end_s,
            attributes={f"baton.{one.name}_s": round(one.end_s - one.start_s, 6) for one in visit.phases},
        )


def _of_prompt(track: Track, number: int | None, ended_s: float) -> Iterator[Sketch]:
    """`number`: of several prompts."""
    attributes: dict[str, Value] = {} if number is None else {"baton.prompt": number}
    if track.queued_s is not None:
        first_s = track.attempts[0].sent_s if track.attempts else ended_s
        admitted = [] if track.admitted_s is None else [Event("admitted", track.admitted_s)]
        yield Sketch(name="queue", start_s=track.queued_s, end_s=first_s, attributes=dict(attributes), events=admitted)
    for attempt in track.attempts:
        span = attempt_span(attempt, track, ended_s)
        span.attributes |= attributes
        yield span


def _name(visit: Visit, record: CallRecord | None) -> str:
    if record is not None:
        return f"{_operation(record)} {record.model}"
    return f"{visit.path}/{visit.method}" if visit.protocol == GRPC else visit.method


def _operation(record: CallRecord) -> str:
    """By what the prompt was: messages, or a text."""
    is_chat = any(phase.name == "render" for phase in record.phases)
    return "chat" if is_chat and record.route not in _COMPLETION_ROUTES else "text_completion"


def _of_protocol(visit: Visit) -> dict[str, Value]:
    attributes: dict[str, Value] = {"baton.request_id": visit.request_id}
    if visit.key_name is not None:
        attributes["baton.api_key.name"] = visit.key_name
    if visit.protocol == GRPC:
        attributes |= {"rpc.system": "grpc", "rpc.service": visit.path, "rpc.method": visit.method}
    else:
        attributes |= {"http.request.method": visit.method, "url.path": visit.path}
    if visit.status:
        name = "rpc.response.status_code" if visit.protocol == GRPC else "http.response.status_code"
        attributes[name] = int(visit.status) if visit.status.isdecimal() else visit.status
    return attributes


def _of_call(record: CallRecord) -> dict[str, Value]:
    asked = record.asked
    attributes: Mapping[str, Value | None] = {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.served_model,
        "gen_ai.response.id": record.request_id,
        "gen_ai.response.finish_reasons": tuple(record.finish_reasons[key] for key in sorted(record.finish_reasons)),
        "gen_ai.usage.input_tokens": record.num_prompt_tokens,
        "gen_ai.usage.output_tokens": record.num_output_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.num_cached_tokens,
        "gen_ai.response.time_to_first_chunk": record.ttft_s,
        "gen_ai.request.max_tokens": asked.max_tokens,
        "gen_ai.request.choice.count": asked.num_choices if asked.num_choices > 1 else None,
        "gen_ai.request.temperature": asked.temperature,
        "gen_ai.request.top_p": asked.top_p,
        "gen_ai.request.top_k": asked.top_k,
        "gen_ai.request.seed": asked.seed,
        "gen_ai.request.frequency_penalty": asked.frequency_penalty,
        "gen_ai.request.presence_penalty": asked.presence_penalty,
        "baton.draft.tokens": record.num_drafted_tokens or None,
        "baton.draft.accepted_tokens": record.num_accepted_tokens if record.num_drafted_tokens else None,
    }
    return {name: value for name, value in attributes.items() if value is not None and value != ()}


def _error(visit: Visit, record: CallRecord | None) -> str:
    """What went wrong on this side; a client's own mistake, or that it left, is none of the server's faults."""
    if record is not None and record.status not in (None, "ok", "cancelled"):
        return record.status or ""
    if visit.protocol == GRPC:
        return visit.error_code if visit.status in _GRPC_FAULTS else ""
    return visit.error_code or visit.status if visit.status >= "500" else ""


_GRPC_FAULTS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)  # that OpenTelemetry counts as errors of a server
