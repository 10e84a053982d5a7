"""Which trace a request is part of: W3C's `traceparent` and `tracestate`, read and written.

https://www.w3.org/TR/trace-context/: what is malformed is as if it had not been sent; a client's decision to sample
stands. Where it made none, a trace is sampled by its id, so that all who have the same ratio decide alike.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

TRACEPARENT, TRACESTATE, TRACERESPONSE = "traceparent", "tracestate", "traceresponse"
MAX_STATE = 512  # characters; who sends more cannot expect it to be kept
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/]{0,255}(@[a-z][a-z0-9_\-*/]{0,13})?=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}")
_SAMPLED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """
    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: Of the span that this server makes of the request, 16 hexadecimal digits.
        parent_id: The client's span; empty: the trace begins here.
        state: What the client's tracing systems say to each other.
    """

    trace_id: str
    span_id: str
    parent_id: str = ""
    is_sampled: bool = False
    state: str = ""

    @property
    def response(self) -> str:
        """`traceresponse`: which trace the answer is part of."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


def context_of(headers: Iterable[tuple[str, str]], sample_ratio: float | None) -> TraceContext | None:
    """
    Args:
        headers: Of a request, or its metadata; names in lower case.
        sample_ratio: Of traces that begin here; None: none does, and none is sampled.
    Returns: None: the request is part of no trace.
    """
    parents, states = [], []
    for name, value in headers:
        if name == TRACEPARENT:
            parents.append(value)
        elif name == TRACESTATE:
            states.append(value)
    parent = _parent(parents[0]) if len(parents) == 1 else None
    if parent is not None:
        trace_id, parent_id, is_sampled = parent
        return TraceContext(
            trace_id=trace_id,
            span_id=new_span_id(),
            parent_id=parent_id,
            is_sampled=is_sampled and sample_ratio is not None,
            state=_state(states),
        )
    if sample_ratio is None:
        return None
    trace_id = secrets.token_hex(16)
    return TraceContext(trace_id=trace_id, span_id=new_span_id(), is_sampled=is_in_ratio(trace_id, sample_ratio))


def is_in_ratio(trace_id: str, ratio: float) -> bool:
    """As OpenTelemetry's TraceIdRatioBased decides."""
    return int(trace_id[16:], 16) < round(ratio * (1 << 64))


def new_span_id() -> str:
    return secrets.token_hex(8)


def _parent(value: str) -> tuple[str, str, bool] | None:
    """Trace, span and whether it is sampled; None: malformed."""
    found = _FORM.fullmatch(value.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def _state(values: Iterable[str]) -> str:
    """The list, if all its members are well formed and no key stands twice; else nothing."""
    members = [member.strip() for value in values for member in value.split(",") if member.strip()]
    keys = {member.partition("=")[0] for member in members}
    text = ",".join(members)
    is_fit = len(text) <= MAX_STATE and len(members) <= 32 and len(keys) == len(members)
    return text if is_fit and all(map(_MEMBER.fullmatch, members)) else ""
