"""`baton generate` and `baton chat` as a user types them, against fake servers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner, Result

from baton.errors import ConfigError
from baton.v1.inference_pb2 import FINISH_REASON_STOP
from cluster.commands.ask import chat, generate
from cluster.commands.ask.endpoint import Endpoint, default_endpoint
from cluster.commands.ask.source import Ask
from cluster.host import state
from tests import http_server as fake_http
from tests.grpc_server import Fail, FakeGrpcServer, last, token
from tests.http_server import FakeOpenAIServer


@pytest.fixture
def server() -> Iterator[FakeGrpcServer]:
    with FakeGrpcServer() as running:
        yield running


@pytest.fixture
def http() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer() as running:
        yield running


def _invoke(command: Any, *words: str, typed: str = "", home: Path | None = None) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words), input=typed, env={"BATON_HOME": str(home)} if home else {})


@pytest.mark.parametrize("flag", ["--stream", "--no-stream"])
def test_generate_writes_the_continuation(server: FakeGrpcServer, flag: str) -> None:
    result = _invoke(generate.command, "Once upon", "--grpc", server.target, "--max-tokens", "2", flag)
    assert result.exit_code == 0, result.output
    assert result.output == "t0 t1 \n"
    assert server.requests[0].prompt == "Once upon"


def test_generate_sends_what_was_given_and_no_more(server: FakeGrpcServer) -> None:
    words = ["Once", "--grpc", server.target, "--temperature", "0", "--top-p", "0.5", "--seed", "3", "--model", "demo"]
    _invoke(generate.command, *words, "--stop", "a", "--stop", "b")
    request = server.requests[0]
    assert (request.model, request.sampling.temperature, request.sampling.top_p) == ("demo", 0.0, 0.5)
    assert (request.sampling.seed, list(request.sampling.stop)) == (3, ["a", "b"])
    assert not request.sampling.HasField("max_tokens")


def test_either_asks_for_no_drafts(server: FakeGrpcServer, http: FakeOpenAIServer) -> None:
    _invoke(generate.command, "Once", "--grpc", server.target, "--speculation", "none")
    _invoke(chat.command, "--grpc", server.target, "--speculation", "none", typed="Hello\n")
    assert [request.sampling.speculation for request in server.requests] == ["none", "none"]
    _invoke(generate.command, "Once", "--url", http.url, "--speculation", "none")
    assert http.bodies[0]["speculation"] == "none"


def test_generate_asks_for_a_form(server: FakeGrpcServer, http: FakeOpenAIServer, tmp_path: Path) -> None:
    schema = tmp_path / "city.json"
    schema.write_text('{"type": "object"}')
    _invoke(generate.command, "A city", "--grpc", server.target, "--schema", str(schema))
    assert server.requests[0].sampling.structured_output.json_schema == '{"type": "object"}'
    _invoke(generate.command, "A city", "--url", http.url, "--schema", str(schema))
    _invoke(generate.command, "A city", "--url", http.url, "--regex", "[A-Z]+")
    _invoke(generate.command, "A city", "--url", http.url, "--choice", "Paris", "--choice", "Lyon")
    assert [body["structured_outputs"] for body in http.bodies] == [
        {"json": '{"type": "object"}'},
        {"regex": "[A-Z]+"},
        {"choice": ["Paris", "Lyon"]},
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schema", "none.json"], "--schema none.json cannot be read"),
        (["--regex", "a", "--choice", "b"], "--schema, --regex and --choice each say what the answer must be"),
    ],
)
def test_generate_refuses_a_form_that_is_none(server: FakeGrpcServer, words: list[str], message: str) -> None:
    result = _invoke(generate.command, "A city", "--grpc", server.target, *words)
    assert result.exit_code != 0
    assert message in result.output
    assert not server.requests


def test_generate_reads_the_prompt_from_standard_input(server: FakeGrpcServer) -> None:
    assert _invoke(generate.command, "-", "--grpc", server.target, typed="From a file").exit_code == 0
    assert server.requests[0].prompt == "From a file"


def test_generate_asks_the_running_cluster(server: FakeGrpcServer, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps({"cluster_id": "c1", "grpc": server.target}))
    assert _invoke(generate.command, "Once", home=tmp_path).output == "t0 t1 t2 \n"


def test_generate_asks_over_http_too(http: FakeOpenAIServer) -> None:
    result = _invoke(generate.command, "Once", "--url", http.url + "/v1", "--max-tokens", "2", "--stop", "x")
    assert result.output == "t0 t1 \n"
    assert http.bodies[0] == {"model": "fake", "stream": True, "max_tokens": 2, "stop": ["x"], "prompt": "Once"}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([fake_http.Fail(429, "the queue is full")], "the queue is full"),
        ([{"error": {"message": "worker lost", "code": "unavailable"}}], "worker lost"),
        ([{"nothing": 1}], "malformed event"),
        ([fake_http.chunk("a"), fake_http.Break()], "the connection was lost"),
    ],
)
def test_a_failure_over_http_is_one_line(http: FakeOpenAIServer, script: list[Any], message: str) -> None:
    http.scripts.append(script)
    result = _invoke(generate.command, "Once", "--url", http.url)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_no_server_is_one_line_with_the_fix(tmp_path: Path) -> None:
    with FakeGrpcServer() as stopped:
        target = stopped.target
    result = _invoke(generate.command, "Once", "--grpc", target)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no server answers at {target}; start one with `baton up` or `make serve`")
    with FakeOpenAIServer() as gone:
        url = gone.url
    result = _invoke(generate.command, "Once", "--url", url)
    assert result.stderr == f"error: no server answers at {url}; start one with `baton up` or `make serve`\n"


def test_wrong_usage_is_exit_code_2(server: FakeGrpcServer) -> None:
    both = _invoke(generate.command, "Once", "--grpc", server.target, "--url", "http://127.0.0.1:1")
    assert both.exit_code == 2
    assert "give one of them" in both.stderr
    no_url = _invoke(generate.command, "Once", "--url", "localhost:8000")
    assert (no_url.exit_code, no_url.stderr) == (
        2,
        "error: --url localhost:8000 is no URL; give one such as http://127.0.0.1:8000\n",
    )
    empty = _invoke(generate.command, "", "--grpc", server.target)
    assert (empty.exit_code, empty.stderr) == (2, "error: the prompt is empty; give at least one token\n")


def test_chat_sends_the_whole_conversation_each_turn(server: FakeGrpcServer) -> None:
    words = ["--grpc", server.target, "--system", "Be brief.", "--max-tokens", "1"]
    result = _invoke(chat.command, *words, typed="Hello\n\nAnd now?\n/quit\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "> t0 \n> > t0 \n> "
    said = [(message.role, message.content) for message in server.requests[1].chat.messages]
    assert said == [("system", "Be brief."), ("user", "Hello"), ("assistant", "t0 "), ("user", "And now?")]


def test_reset_forgets_all_but_the_system_prompt(server: FakeGrpcServer) -> None:
    _invoke(chat.command, "--grpc", server.target, "--system", "Be brief.", typed="Hello\n/reset\nAgain\n")
    said = [message.content for message in server.requests[1].chat.messages]
    assert said == ["Be brief.", "Again"]


def test_an_unknown_command_is_not_sent(server: FakeGrpcServer) -> None:
    result = _invoke(chat.command, "--grpc", server.target, typed="/help me\n")
    assert result.exit_code == 0
    assert "/help is no command" in result.stderr
    assert server.requests == []


def test_a_refused_turn_is_not_kept_and_the_chat_goes_on(server: FakeGrpcServer) -> None:
    server.scripts.append([Fail(status=grpc.StatusCode.INVALID_ARGUMENT, details="messages: 9000 tokens are too many")])
    result = _invoke(chat.command, "--grpc", server.target, typed="Much\nLittle\n")
    assert result.exit_code == 0
    assert "error: messages: 9000 tokens are too many" in result.stderr
    assert [message.content for message in server.requests[1].chat.messages] == ["Little"]


def test_a_turn_refused_after_others_says_how_to_begin_anew(server: FakeGrpcServer) -> None:
    server.scripts += [
        [token(0, finish=FINISH_REASON_STOP), last()],
        [Fail(status=grpc.StatusCode.INVALID_ARGUMENT, details="chat is too long")],
    ]
    result = _invoke(chat.command, "--grpc", server.target, typed="Hello\nMore\n")
    assert "error: chat is too long; /reset forgets the conversation" in result.stderr
    assert server.requests[0].sampling.max_tokens == 512, "an answer may not take the whole context"


def test_chat_works_over_http_too(http: FakeOpenAIServer) -> None:
    result = _invoke(chat.command, "--url", http.url, "--max-tokens", "1", typed="Hello\n")
    assert result.stdout == "> t0 \n> \n"
    assert http.bodies[0]["messages"] == [{"role": "user", "content": "Hello"}]


class _Interrupting:
    """A source whose first answer is stopped by Ctrl-C after one piece."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []
        self.num_left = 0

    def answer(self, prompt: Any, ask: Any) -> Any:
        self.prompts.append(list(prompt))
        return self

    def __enter__(self) -> Iterator[str]:
        yield_text = "half" if len(self.prompts) == 1 else "whole"
        return _pieces(yield_text)

    def __exit__(self, *details: object) -> None:
        self.num_left += 1


def _pieces(text: str) -> Iterator[str]:
    yield text
    if text == "half":
        raise KeyboardInterrupt


def test_ctrl_c_stops_the_answer_and_keeps_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    source = _Interrupting()
    lines = iter(["Hello", "Go on"])
    conversation = chat.Conversation(source, Ask(), None, read_line=lambda: next(lines, None))
    conversation.run()
    assert [message["content"] for message in source.prompts[1]] == ["Hello", "half", "Go on"]
    assert source.num_left == 2
    assert "[stopped]" in capsys.readouterr().err


def test_the_endpoint_is_the_running_clusters_or_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_HOME", str(tmp_path))
    assert default_endpoint() == Endpoint(http="http://127.0.0.1:8000", grpc="127.0.0.1:9000")
    state.write(state.ClusterState(cluster_id="c1", http="http://10.0.0.1:80", grpc="10.0.0.1:90"))
    assert default_endpoint() == Endpoint(http="http://10.0.0.1:80", grpc="10.0.0.1:90")
    state.write(state.ClusterState(cluster_id="c1", http="http://10.0.0.1:80"))
    assert default_endpoint() == Endpoint(http="http://10.0.0.1:80", grpc="127.0.0.1:9000")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_state_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BATON_HOME", str(tmp_path))
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cluster\.json cannot be read"):
        default_endpoint()
