"""A collector that is down, slow or full costs a count, and nobody's time."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from cluster.ingress.tracing import export
from cluster.ingress.tracing.context import TraceContext
from cluster.ingress.tracing.export import Export, Sender
from cluster.ingress.tracing.otlp import OTLPSender
from cluster.ingress.tracing.visit import Visit
from tests.unit.ingress.tracing.timelines import TRACE, visit


class Held:
    """A sender that does nothing before it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.batches: list[int] = []
        self.is_closed = False

    def send(self, visits: Sequence[Visit]) -> bool:
        self.may.wait(10)
        self.batches.append(len(visits))
        return True

    def close(self) -> None:
        self.is_closed = True


class Count:
    def __init__(self) -> None:
        self.number = 0

    def __call__(self, count: int) -> None:
        self.number += count


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def otlp(port: int) -> Callable[[], Sender]:
    return partial(OTLPSender, f"http://127.0.0.1:{port}", "replica")


def test_spans_go_in_batches_and_the_rest_when_it_closes() -> None:
    held, dropped = Held(), Count()
    held.may.set()
    exporting = Export(lambda: held, dropped)
    for _ in range(3 * export.MAX_BATCH + 1):
        exporting.take(visit(None))
    exporting.close()
    assert sum(held.batches) == 3 * export.MAX_BATCH + 1
    assert max(held.batches) <= export.MAX_BATCH
    assert (held.is_closed, dropped.number) == (True, 0)


def test_what_the_queue_has_no_room_for_is_counted_and_costs_no_time() -> None:
    held, dropped = Held(), Count()
    exporting = Export(lambda: held, dropped)
    num = export.MAX_WAITING + 2 * export.MAX_BATCH
    started_s = time.monotonic()
    for _ in range(num):
        exporting.take(visit(None))
    assert time.monotonic() - started_s < 5
    assert dropped.number > 0
    held.may.set()
    exporting.close(10)
    assert sum(held.batches) + dropped.number == num


@pytest.mark.parametrize(
    ("trace", "method"),
    [
        (None, "POST"),
        (TraceContext(trace_id=TRACE.trace_id, span_id=TRACE.span_id), "POST"),
        (TRACE, "GET"),
    ],
)
def test_what_is_not_sampled_and_probes_are_not_sent(trace: TraceContext | None, method: str) -> None:
    held, dropped = Held(), Count()
    held.may.set()
    exporting = Export(lambda: held, dropped)
    exporting.take(visit(None, trace=trace, method=method))
    exporting.close()
    assert (held.batches, dropped.number) == ([], 0)


def test_a_sender_that_fails_is_asked_again_for_the_next() -> None:
    class Broken(Held):
        def send(self, visits: Sequence[Visit]) -> bool:
            raise RuntimeError("bug")

    dropped = Count()
    exporting = Export(Broken, dropped)
    exporting.take(visit(None))
    until(lambda: dropped.number == 1)
    exporting.take(visit(None))
    exporting.close()
    assert dropped.number == 2


def test_a_closed_port_costs_a_count_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    dropped = Count()
    exporting = Export(otlp(closed_port()), dropped)
    for number in range(1, 4):
        exporting.take(visit(None))
        until(lambda number=number: dropped.number == number)  # type: ignore[misc]
    exporting.close()
    assert [record.msg for record in caplog.records] == ["the collector does not take spans num_requests=%d"]


def test_a_collector_that_never_answers_holds_up_nobody(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    dropped = Count()
    exporting = Export(otlp(silent), dropped)
    exporting.take(visit(None))
    until(lambda: dropped.number == 1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    slow = Export(otlp(silent), dropped)
    slow.take(visit(None))
    started_s = time.monotonic()
    slow.close(0.2)
    assert time.monotonic() - started_s < 5
    exporting.close()
