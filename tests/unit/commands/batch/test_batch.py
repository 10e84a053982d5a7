import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.cli import build
from cluster.commands.batch.record import BatchRecord
from tests.unit.commands.batch.fake_server import Reply, echo, serving


def line(custom_id: str, **changed: Any) -> str:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": custom_id}}
    return json.dumps({**request, **changed})


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(line, "abcde")) + "\n")
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def batch(requests: Path, answers: Path, *options: str) -> Result:
    arguments = ["batch", str(requests), str(answers), *options]
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(build(arguments), arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_every_line_is_answered_in_openais_format(requests: Path, answers: Path) -> None:
    with serving() as server:
        result = batch(requests, answers, "--url", server.url + "/v1")
    assert result.exit_code == 0, result.output
    found = {entry["custom_id"]: entry for entry in entries(answers)}
    assert set(found) == set("abcde")
    assert found["a"]["id"].startswith("batch_req_")
    assert found["a"]["error"] is None
    assert found["a"]["response"] == {
        "status_code": 200,
        "request_id": "cmpl-a",
        "body": {"id": "cmpl-a", "path": "/v1/completions", "model": None},
    }
    assert "5 of 5 lines answered" in result.output


def test_what_is_answered_is_not_sent_again(requests: Path, answers: Path) -> None:
    with serving() as server:
        first = requests.read_text()
        batch(requests, answers, "--url", server.url)
        requests.write_text(first + line("f"))
        result = batch(requests, answers, "--url", server.url)
        assert result.exit_code == 0
        assert server.seen == dict.fromkeys("abcdef", 1)
    assert batch(requests, answers, "--url", server.url).exit_code == 0, "nothing is left to ask a server for"


@pytest.mark.parametrize("cut", [1, 20, None])
def test_a_last_line_that_was_cut_off_is_done_again(requests: Path, answers: Path, cut: int | None) -> None:
    whole = json.dumps({"id": "x", "custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": None})
    other = json.dumps({"id": "y", "custom_id": "b", "response": {"status_code": 200, "body": {}}, "error": None})
    answers.write_text(other + "\n" + whole[:cut])
    with serving() as server:
        assert batch(requests, answers, "--url", server.url).exit_code == 0
        assert set(server.seen) == set("cde") | ({"a"} if cut else set())
    assert sorted(entry["custom_id"] for entry in entries(answers)) == list("abcde")


def test_errors_are_answers_and_may_be_sent_again(requests: Path, answers: Path) -> None:
    is_broken = True

    def respond(path: str, body: dict[str, Any]) -> Reply:
        if body["prompt"] == "b" and is_broken:
            return Reply(400, {"error": {"message": "bad", "code": "invalid_request"}}, {"X-Request-Id": "r1"})
        return Reply(200, "no JSON") if body["prompt"] == "c" and is_broken else echo(path, body)

    with serving(respond) as server:
        result = batch(requests, answers, "--url", server.url)
        assert result.exit_code == 1
        assert "5 of 5 lines answered, 2 of them errors" in result.output
        found = {entry["custom_id"]: entry for entry in entries(answers)}
        assert found["b"]["response"]["status_code"] == 400
        assert found["b"]["response"]["request_id"] == "r1"
        assert found["c"]["error"]["code"] == "bad_response"
        assert batch(requests, answers, "--url", server.url).exit_code == 1
        is_broken = False
        assert batch(requests, answers, "--url", server.url, "--retry-failed").exit_code == 0
        assert server.seen == {"a": 1, "b": 2, "c": 2, "d": 1, "e": 1}
    assert sorted(entry["custom_id"] for entry in entries(answers)) == list("abcde")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"url": "/v1/embeddings"}, 'line 1: url is "/v1/embeddings"; it must be one of /v1/chat/completions, '),
        ({"method": "GET"}, 'line 1: method is "GET"; it must be POST'),
        ({"body": [1]}, "line 1: body is no object"),
        ({"body": {"stream": True}}, "line 1: body.stream is set"),
    ],
)
def test_a_line_that_cannot_be_sent_gets_an_error(
    requests: Path, answers: Path, changed: dict[str, Any], message: str
) -> None:
    requests.write_text(line("a", **changed))
    with serving() as server:
        assert batch(requests, answers, "--url", server.url).exit_code == 1
        assert not server.seen
    (entry,) = entries(answers)
    assert entry["response"] is None
    assert entry["error"]["code"] == "invalid_line"
    assert entry["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("a") + "\n\n" + line("b") + "\n" + line("a"), "line 4 repeats custom_id 'a' of line 1"),
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 is no JSON object"),
        ("\xff", "line 1 is no JSON"),
        ('{"custom_id": 3}', "line 1 has no custom_id, a text"),
        ("x\n" * 7, "line 5 is no JSON; and 2 more; give each line a custom_id of its own"),
    ],
)
def test_lines_that_say_not_who_they_are_are_refused_before_any_is_sent(
    requests: Path, answers: Path, text: str, message: str
) -> None:
    requests.write_text(text, encoding="latin-1")
    result = batch(requests, answers, "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert message in result.output
    assert not answers.exists()


def test_a_file_that_is_no_record_of_this_batch_is_left_as_it_is(requests: Path, answers: Path) -> None:
    for text, message in (("hello\n", "line 1 is no answer of a batch"), ('{"custom_id": "z"}\n', "answer to 'z'")):
        answers.write_text(text)
        result = batch(requests, answers, "--url", "http://127.0.0.1:1")
        assert result.exit_code == 2
        assert message in result.output
        assert answers.read_text() == text
    assert batch(requests, requests).exit_code == 2
    assert "--url names a server" in batch(requests, answers, "--url", "http://x", "--set", "model=demo").output


def test_a_server_without_room_is_asked_again_when_it_says(requests: Path, answers: Path) -> None:
    tries: dict[str, int] = {}

    def respond(path: str, body: dict[str, Any]) -> Reply | None:
        number = tries[body["prompt"]] = tries.get(body["prompt"], 0) + 1
        if body["prompt"] == "a" and number == 1:
            return Reply(429, {"error": {}}, {"Retry-After": "0.01"})
        if body["prompt"] == "b" and number == 1:
            return Reply(503, {"error": {}})
        return None if body["prompt"] == "c" and number == 1 else echo(path, body)

    with serving(respond) as server:
        assert batch(requests, answers, "--url", server.url).exit_code == 0
        assert server.seen == {"a": 2, "b": 2, "c": 2, "d": 1, "e": 1}


def test_a_server_that_stays_full_is_an_error_of_its_lines(requests: Path, answers: Path) -> None:
    with serving(lambda path, body: Reply(429, {"error": {}}, {"Retry-After": "0"})) as server:
        assert batch(requests, answers, "--url", server.url, "--max-retries", "2").exit_code == 1
        assert server.seen == dict.fromkeys("abcde", 3)
    assert {entry["response"]["status_code"] for entry in entries(answers)} == {429}


def test_a_server_that_is_gone_ends_the_run_and_no_line(requests: Path, answers: Path) -> None:
    answered = threading.Event()

    def respond(path: str, body: dict[str, Any]) -> Reply | None:
        if answered.is_set():
            return None
        answered.set()
        return echo(path, body)

    with serving(respond) as server:
        result = batch(requests, answers, "--url", server.url, "--max-retries", "0", "--concurrency", "1")
    assert result.exit_code == 1
    assert "does not answer" in result.output
    assert "1 of 5 lines are done, and the same command goes on there" in result.output
    assert [entry["custom_id"] for entry in entries(answers)] == ["a"]


def test_no_more_are_sent_at_once_than_said_and_each_with_the_key(requests: Path, answers: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def respond(path: str, body: dict[str, Any]) -> Reply:
        if body["prompt"] in "abcd":
            both.wait()
        return echo(path, body)

    with serving(respond) as server:
        assert batch(requests, answers, "--url", server.url, "--concurrency", "2", "--api-key", "bt-k").exit_code == 0
        assert server.max_at_once == 2
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer bt-k"}


def test_a_body_that_is_no_text_or_number_is_the_server_s_to_refuse(tmp_path: Path, answers: Path) -> None:
    requests = tmp_path / "odd.jsonl"
    requests.write_text(
        '{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "half \\ud800"}}\n'
        '{"custom_id": "b", "url": "/v1/completions", "body": {"prompt": "far", "temperature": 1e999}}\n'
    )
    bodies: list[Any] = []

    def respond(path: str, body: dict[str, Any]) -> Reply:
        bodies.append(body)
        return echo(path, body)

    with serving(respond) as server:
        assert batch(requests, answers, "--url", server.url, "--concurrency", "1").exit_code == 0
    assert [body["prompt"] for body in bodies] == ["half \ud800", "far"]


def test_one_process_at_a_time_has_the_record(requests: Path, answers: Path) -> None:
    with BatchRecord(answers):
        result = batch(requests, answers, "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "is written by another `baton batch`" in result.output


@contextmanager
def interrupts(handler: Any) -> Iterator[None]:
    """What processes that are started here make of SIGINT at first, whatever the test's own shell says."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "code", "at_first"),
    [
        (signal.SIGINT, 130, signal.default_int_handler),
        (signal.SIGTERM, 130, signal.default_int_handler),
        (signal.SIGTERM, 130, signal.SIG_IGN),  # a shell's background job
        (signal.SIGKILL, -9, signal.default_int_handler),
    ],
)
def test_a_run_that_is_stopped_in_any_way_goes_on_where_it_was(
    tmp_path: Path, answers: Path, number: signal.Signals, code: int, at_first: Any
) -> None:
    requests = tmp_path / "many.jsonl"
    requests.write_text("\n".join(line(str(one)) for one in range(12)))
    go_on, waits = threading.Event(), threading.Event()

    def respond(path: str, body: dict[str, Any]) -> Reply:
        if int(body["prompt"]) >= 6 and not go_on.is_set():
            waits.set()
            go_on.wait(60)
        return echo(path, body)

    with serving(respond) as server:
        command = [sys.executable, "-m", "cluster.cli", "batch", str(requests), str(answers), "--url", server.url]
        with interrupts(at_first):
            first = subprocess.Popen([*command, "--concurrency", "1"], stderr=subprocess.DEVNULL)
        assert waits.wait(60)
        first.send_signal(number)
        assert first.wait(30) == code
        assert [entry["custom_id"] for entry in entries(answers)] == [str(one) for one in range(6)]
        go_on.set()
        assert batch(requests, answers, "--url", server.url).exit_code == 0
        assert server.seen == {str(one): 2 if one == 6 else 1 for one in range(12)}
    assert sorted(int(entry["custom_id"]) for entry in entries(answers)) == list(range(12))
