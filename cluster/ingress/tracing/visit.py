"""One HTTP request or gRPC call while it is answered: its ids, when it came, and what was done before its call began.

Every line that is logged meanwhile carries the ids: see `cluster.logs`. A visit follows the tasks that its own starts.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from cluster.ingress.tracing.context import TraceContext, context_of
from cluster.ingress.tracing.record import CallRecord, Phase
from cluster.logs.subject import Subject, set_subject

MAX_PHASES = 32  # of a visit; a batch of prompts is tokenized one by one
HTTP, GRPC = "http", "grpc"


@dataclass(slots=True, kw_only=True, eq=False)
class Visit:
    """
    Attributes:
        request_id: Of `X-Request-Id`.
        protocol: http or grpc.
        method, path: Of HTTP; of gRPC the method of its service, and its name.
        trace: None: it is part of no trace.
        arrived_s, arrived_at: On the monotonic clock, and since the epoch.
        key_name: Whose API key it came with; None: there are no keys, or it has none.
        record: Of its call, once that has begun.
        status: HTTP's number, or gRPC's name of it; empty: nothing was answered.
        error_code: Of what it was refused with, or ended with.
    """

    request_id: str
    protocol: str
    method: str
    path: str
    trace: TraceContext | None = None
    arrived_s: float = field(default_factory=time.monotonic)
    arrived_at: float = field(default_factory=time.time)
    ended_s: float | None = None
    key_name: str | None = None
    phases: list[Phase] = field(default_factory=list)
    record: CallRecord | None = None
    status: str = ""
    error_code: str = ""

    def enter(self) -> None:
        """From now on this task, and those that it starts, are about this visit."""
        _VISIT.set(self)
        set_subject(Subject(self.request_id, self.trace.trace_id if self.trace is not None else ""))

    @property
    def is_error(self) -> bool:
        """The server's, or a client's that was told so."""
        if self.protocol == GRPC:
            return self.status not in ("OK", "")
        return self.status >= "400"


class Visits:
    """
    Args:
        sample_ratio: Of traces that begin here; None: nobody collects any.
    """

    def __init__(self, sample_ratio: float | None = None) -> None:
        self.on_left: list[Callable[[Visit], None]] = []  # each is told of every visit that is over
        self._sample_ratio = sample_ratio

    def begin(
        self, request_id: str, headers: Iterable[tuple[str, str]], *, protocol: str, method: str, path: str
    ) -> Visit:
        """Of this task. `headers`: in lower case; those that name a trace are enough."""
        trace = context_of(headers, self._sample_ratio)
        visit = Visit(request_id=request_id, protocol=protocol, method=method, path=path, trace=trace)
        visit.enter()
        return visit

    @property
    def are_collected(self) -> bool:
        """Whether an answer should say which trace it is part of."""
        return self._sample_ratio is not None

    def end(self, visit: Visit) -> None:
        visit.ended_s = time.monotonic()
        for tell in self.on_left:
            tell(visit)


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def current_visit() -> Visit | None:
    return _VISIT.get()


def note_error(code: str) -> None:
    """What this task's visit is answered with."""
    visit = _VISIT.get()
    if visit is not None:
        visit.error_code = code


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Notes what is done inside as a phase of the visit."""
    visit = _VISIT.get()
    if visit is None:
        yield
        return
    start_s = time.monotonic()
    try:
        yield
    finally:
        if len(visit.phases) < MAX_PHASES:
            visit.phases.append(Phase(name, start_s, time.monotonic()))
