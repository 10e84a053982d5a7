"""Spans as OpenTelemetry's exporter takes them. The only module that imports OpenTelemetry; import it in time.

The variables OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and OTEL_EXPORTER_OTLP_* (headers, timeout, compression,
certificates) are honoured; the address is the configuration's.
"""

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from cluster.ingress.tracing.context import TraceContext, new_span_id
from cluster.ingress.tracing.sketch import Sketch
from cluster.ingress.tracing.spans import visit_span
from cluster.ingress.tracing.visit import Visit

SERVICE_NAME = "baton"
PATH = "/v1/traces"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_FINE, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_NO_STATE = TraceState()


class _OneResource(Resource):
    """There is one: the exporter, which groups spans by theirs, need not write it out to tell it from others."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class OTLPSender:
    """`replica`: this one's name. `exporter`: None: over HTTP to `endpoint`, http://host:4318 or with the path."""

    def __init__(self, endpoint: str, replica: str, exporter: SpanExporter | None = None) -> None:
        logging.getLogger("opentelemetry.exporter").setLevel(
            logging.CRITICAL
        )  # it has a line for each try; see `Export`
        self._exporter = exporter or OTLPSpanExporter(endpoint=address(endpoint))
        own = {"service.name": SERVICE_NAME, "service.version": version("baton-serve"), "service.instance.id": replica}
        self._resource = _OneResource({**own, **OTELResourceDetector().detect().attributes})
        self._scope = InstrumentationScope("baton", own["service.version"])

    def send(self, visits: Sequence[Visit]) -> bool:
        spans = [span for visit in visits for span in self._spans(visit)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()

    def _spans(self, visit: Visit) -> Iterator[ReadableSpan]:
        trace = visit.trace
        assert trace is not None
        parent = _context(trace, trace.parent_id, is_remote=True) if trace.parent_id else None
        own = _context(trace, trace.span_id)
        epoch_s = visit.arrived_at - visit.arrived_s
        yield from self._tree(visit_span(visit), own, parent, SpanKind.SERVER, trace, epoch_s)

    def _tree(
        self,
        sketch: Sketch,
        own: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        trace: TraceContext,
        epoch_s: float,
    ) -> Iterator[ReadableSpan]:
        attributes = sketch.attributes
        if sketch.error:
            attributes["error.type"] = sketch.error
        yield ReadableSpan(
            name=sketch.name,
            context=own,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=[
                Event(event.name, dict(event.attributes), _nanoseconds(event.at_s + epoch_s)) for event in sketch.events
            ],
            kind=kind,
            status=_FAILED if sketch.error else _FINE,
            start_time=_nanoseconds(sketch.start_s + epoch_s),
            end_time=_nanoseconds(sketch.end_s + epoch_s),
            instrumentation_scope=self._scope,
        )
        for child in sketch.children:
            below = _context(trace, new_span_id())
            yield from self._tree(child, below, own, SpanKind.INTERNAL, trace, epoch_s)


def address(endpoint: str) -> str:
    """Where spans are posted."""
    bare = endpoint.rstrip("/")
    return bare if bare.endswith(PATH) else bare + PATH


def _context(trace: TraceContext, span_id: str, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=is_remote,
        trace_flags=_SAMPLED,
        trace_state=TraceState.from_header([trace.state]) if trace.state else _NO_STATE,
    )


def _nanoseconds(at_s: float) -> int:
    return int(at_s * 1e9)
