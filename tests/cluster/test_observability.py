"""A real cluster of two ingress replicas: a trace at a collector, a timeline whoever is asked, a line in the log."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.cluster.served import ServedCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EXTRA = """
load_format: fake
fake_step_s: 0.005
http: {{port: 0, replicas: 2}}
logging: {{format: json}}
tracing: {{otlp_endpoint: "http://127.0.0.1:{port}", sample_ratio: 0.0}}
"""
BODY = {"prompt": "Once upon a time " * 40, "max_tokens": 20, "ignore_eos": True}


class Collector:
    """Keeps the spans that are posted to it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans.extend(span for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.port = self._server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(collector: Collector) -> Iterator[ServedCluster]:
    cluster = ServedCluster(extra=EXTRA.format(port=collector.port))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def access_lines(served: ServedCluster) -> list[dict[str, Any]]:
    """Of all replicas, from where Ray keeps their stderr."""
    logs = Path(served.state().folder) / "ray" / "session_latest" / "logs"
    lines = [line for path in logs.glob("worker-*.err") for line in path.read_text().splitlines()]
    read = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in read if line["message"] == "request ended"]


def eventually(what: str, found: Any, timeout_s: float = 30) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


def test_one_request_is_one_trace_one_timeline_and_one_line(served: ServedCluster, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    with httpx.Client(base_url=served.http, timeout=60) as http:
        made = http.post("/v1/completions", json=BODY, headers=headers).json()
        http.post("/v1/completions", json=BODY)  # of no trace, and the ratio is 0
        spans = eventually("no spans came", lambda: list(collector.spans))
        found = [httpx.get(f"{served.http}/cluster/requests/{made['id']}", timeout=10).json() for _ in range(4)]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    (root,) = [span for span in spans if span.parent_span_id.hex() == PARENT]
    names = {span.name for span in spans}
    assert {"text_completion demo", "queue", "attempt", "prefill", "chunk", "transfer", "decode"} <= names
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano for span in spans)
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in spans)
    assert b"Once upon" not in b"".join(span.SerializeToString() for span in spans)
    assert {timeline["request_id"] for timeline in found} == {made["id"].removeprefix("cmpl-")}, "whoever is asked"
    assert (found[0]["trace_id"], found[0]["x_request_id"], found[0]["num_output_tokens"]) == (TRACE, "mine", 20)
    assert found[0]["prompts"][0]["attempts"][0]["transfer"]["num_bytes"] > 0
    (line,) = eventually("no line", lambda: [one for one in access_lines(served) if one["request_id"] == "mine"])
    assert (line["trace_id"], line["status"], line["outcome"]) == (TRACE, 200, "ok")
    assert (line["num_output_tokens"], line["decode"]) == (20, "decode-0")


def test_baton_trace_finds_it_on_the_running_cluster(served: ServedCluster) -> None:
    with httpx.Client(base_url=served.http, timeout=60) as http:
        made = http.post("/v1/completions", json=BODY).json()
    shown = served.baton("trace", made["id"])
    assert "decode-0 writes" in shown.stdout
    listed = served.baton("trace", "--slowest", "5")
    assert made["id"].removeprefix("cmpl-") in listed.stdout
