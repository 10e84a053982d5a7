"""What a replica does with its visits is what the config says; and what is off is not even imported."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from baton.errors import ConfigError
from cluster.config.load import from_tree
from cluster.config.schema import LoggingConfig, TracingConfig
from cluster.ingress.tracing.observing import Observing
from tests.unit.ingress.tracing.timelines import visit


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


@pytest.mark.parametrize("access", [True, False])
def test_there_is_an_access_line_where_the_config_wants_one(access: bool) -> None:
    stream = io.StringIO()
    observing = Observing(TracingConfig(), LoggingConfig(format="json", access=access), "replica", stream)
    observing.start(CollectorRegistry())
    observing.visits.end(visit(None))
    observing.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["request ended"] * access


def test_without_a_collector_no_trace_begins_and_answers_name_none() -> None:
    observing = Observing(TracingConfig(keep=5, sample_ratio=1.0), LoggingConfig(), "replica", io.StringIO())
    observing.start(CollectorRegistry())
    assert not observing.visits.are_collected
    assert observing.visits.begin("x", [], protocol="http", method="POST", path="/").trace is None
    assert observing.ring.keep == 5
    observing.close()


def test_a_collector_that_is_gone_is_counted_for_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    registry = CollectorRegistry()
    tracing = TracingConfig(otlp_endpoint="http://127.0.0.1:1")
    observing = Observing(tracing, LoggingConfig(access=False), "replica", io.StringIO())
    observing.start(registry)
    observing.visits.end(visit(None))
    observing.close()
    assert registry.get_sample_value("baton_traces_dropped_total") == 1
    assert registry.get_sample_value("baton_log_lines_dropped_total") == 0


def test_opentelemetrys_sdk_and_exporter_are_not_imported_where_nothing_is_sent() -> None:
    code = (
        "import sys, cluster.ingress.http_api, cluster.ingress.grpc_api, cluster.ingress.tracing.observing\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://c:4317", "http://", "http://c:port", "http://u:p@c:4318", "http://c/?a=1"]
)
def test_an_address_that_is_no_collectors_is_refused_by_name(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"tracing\.otlp_endpoint: .* give http://host:4318"):
        from_tree({"tracing": {"otlp_endpoint": endpoint}})
    assert from_tree({"tracing": {"otlp_endpoint": "https://c:4318/v1/traces"}}).tracing.sample_ratio == 1.0
