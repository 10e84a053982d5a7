"""`baton trace`, as a user types it, and the chart that it draws."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from cluster.commands.trace.chart import chart, table
from cluster.ingress.tracing.timeline_json import summary_json, timeline_json
from tests.unit.commands.typed import refusal, typed
from tests.unit.ingress.tracing.test_spans import served
from tests.unit.ingress.tracing.timelines import START_S

TIMELINE = timeline_json(served(), START_S + 60, "replica")
SUMMARY = summary_json(served(), START_S + 60, "replica")


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers: dict[str, tuple[int, Any]] = {
            f"/cluster/requests/{'r' * 32}": (200, TIMELINE),
            "/cluster/requests?order=last&limit=2": (200, {"requests": [SUMMARY]}),
            "/cluster/requests?order=slowest&limit=3": (200, {"requests": []}),
        }
        error = {"error": {"message": "request is not remembered", "code": "request_not_found"}}
        status, body = answers.get(self.path, (404, error))
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_request_is_a_chart_or_the_servers_json(url: str) -> None:
    shown = typed("trace", "r" * 32, "--url", url)
    assert (shown.code, shown.out) == (0, chart(TIMELINE, 200) + "\n")
    as_json = typed("trace", "r" * 32, "--url", url, "--json")
    assert json.loads(as_json.out) == TIMELINE


def test_lists_are_tables_or_the_servers_json(url: str) -> None:
    assert typed("trace", "--last", 2, "--url", url).out == table([SUMMARY]) + "\n"
    assert json.loads(typed("trace", "--slowest", 3, "--url", url, "--json").out) == {"requests": []}


def test_one_that_nobody_remembers_is_one_line(url: str) -> None:
    ended = typed("trace", "other", "--url", url)
    assert (ended.code, ended.err) == (2, "error: request is not remembered\n")


@pytest.mark.parametrize("words", [(), ("r", "--last", 1), ("--last", 1, "--slowest", 1)])
def test_what_to_show_is_said_once(words: tuple[object, ...]) -> None:
    assert refusal("trace", *words) == "error: give one of REQUEST_ID, --last N and --slowest N"


def test_a_chart_has_a_bar_for_each_thing_that_was_done() -> None:
    lines = chart(TIMELINE, 100).splitlines()
    assert all(len(line) <= 120 for line in lines)
    text = "\n".join(lines)
    assert f"{'r' * 32}  chat  demo  ok  1600 ms" in text
    assert "prompt 40 tokens (16 cached), answer 3 tokens, 1 of 3 guesses right" in text
    labels = [line[:17].strip() for line in lines]
    for label in (
        "render",
        "tokenize",
        "queue",
        "attempt 0: lost",
        "attempt 1",
        "prefill-0 waits",
        "prefill-0 reads",
        "KV to decode-0",
        "decode-0 writes",
    ):
        assert any(one.startswith(label) for one in labels), label
    assert "4.0 KiB" in text
    assert "1/3 guessed" in text


def test_a_request_that_waits_has_a_chart_too() -> None:
    waiting = served()
    waiting.status, waiting.ended_s, waiting.tracks[0].attempts, waiting.phases = None, None, [], []
    shown = chart(timeline_json(waiting, START_S + 2, "replica"), 10)
    assert "running  2000 ms so far" in shown
    assert "queue" in shown
