"""`baton bench` as a user types it, against a fake server."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cluster.commands import bench
from tests.grpc_server import FakeGrpcServer
from tests.http_server import Fail, FakeOpenAIServer, Hang

ROOT = Path(__file__).resolve().parents[3]


def _bench(*words: str) -> Result:
    app = typer.Typer()
    app.command()(bench.command)
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def test_a_run_prints_a_table_and_writes_json_and_a_picture(http: FakeOpenAIServer, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    words = ["--url", http.url, "--concurrency", "4", "--num-prompts", "10", "--input-len", "9", "--output-len", "5"]
    words += ["--warmup", "2", "--goodput", "ttft:60000", "tpot:60000"]
    result = _bench(*words, "--json", str(out), "--save-detailed", "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert "10 completed" in result.output
    assert "TTFT" in result.output
    assert len(http.bodies) == 12
    assert http.peak <= 4
    content = json.loads(out.read_text())
    assert (content["completed"], content["failed"]) == (10, 0)
    assert (content["total_input_tokens"], content["total_output_tokens"]) == (90, 50)
    assert content["request_goodput"] == content["request_throughput"]
    assert (content["max_concurrency"], content["request_rate"], content["burstiness"]) == (4, "inf", None)
    assert (content["backend"], content["model_id"], content["num_prompts"]) == ("openai", "fake", 10)
    assert content["output_lens"] == [5] * 10
    assert [len(gaps) for gaps in content["itls"]] == [4] * 10
    assert len(content["ttfts"]) == len(content["input_lens"]) == len(content["errors"]) == 10
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["openai", "openai-chat", "grpc"])
def test_every_backend_measures_the_same_workload(
    http: FakeOpenAIServer, grpc_server: FakeGrpcServer, tmp_path: Path, backend: str
) -> None:
    out = tmp_path / "out.json"
    address = ["--grpc", grpc_server.target] if backend == "grpc" else ["--url", http.url]
    words = ["--num-prompts", "5", "--input-len", "8", "--output-len", "3", "--rate", "1000"]
    result = _bench("--backend", backend, *address, *words, "--json", str(out))
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    assert (content["completed"], content["total_output_tokens"]) == (5, 15)
    assert (content["request_rate"], content["burstiness"], content["max_concurrency"]) == (1000.0, 1.0, None)


def test_failed_requests_are_counted_and_named(http: FakeOpenAIServer, tmp_path: Path) -> None:
    http.scripts.extend([[Fail(429, "the queue is full")], [Fail(429, "the queue is full")]])
    result = _bench("--url", http.url, "--num-prompts", "5", "--concurrency", "1")
    assert result.exit_code == 0, result.output
    assert "3 completed, 2 failed" in result.output
    assert "2 x HTTP 429: the queue is full" in result.output


def test_a_run_without_any_answer_fails(http: FakeOpenAIServer) -> None:
    http.scripts.append([Fail(500)])
    result = _bench("--url", http.url, "--num-prompts", "1")
    assert result.exit_code == 1
    assert "error: no request completed" in result.stderr


def test_a_failed_warm_up_ends_the_run(http: FakeOpenAIServer) -> None:
    http.scripts.append([Fail(400, "ignore_eos is unknown")])
    result = _bench("--url", http.url, "--warmup", "1")
    assert result.exit_code == 1
    assert "the first with: HTTP 400: ignore_eos is unknown" in result.stderr
    assert len(http.bodies) == 1


def test_what_is_cut_or_guessed_is_said(http: FakeOpenAIServer) -> None:
    http.models = {"data": [{"id": "fake", "max_model_len": 64}]}
    result = _bench("--url", http.url, "--num-prompts", "2", "--input-len", "100", "--output-len", "8", "--clip")
    assert "2 of 2 requests clipped to the context of 64 tokens" in result.output
    assert "token ids are below 1000" in result.output
    assert [len(body["prompt"]) for body in http.bodies] == [56, 56]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "1", "--concurrency", "2"], "--rate sends by the clock"),
        (["--prompts", "none.txt"], "--prompts none.txt cannot be read"),
        (["--trace", "none.csv"], "--trace none.csv cannot be read"),
        (["--input-len", "3000"], "add --clip"),
        (["--model", "gpt-9"], "--model gpt-9 is not served at"),
        (["--goodput", "speed:1"], "--goodput speed:1 is not a target"),
        (["tpot:50"], "unexpected argument 'tpot:50'"),
        (["--save-detailed"], "give --json FILE too"),
        (["--json", "no/such/folder/out.json"], "--json no/such/folder/out.json cannot be written"),
        (["--plot", "out.xyz"], "--plot out.xyz: unknown kind '.xyz'"),
        (["--grpc", "127.0.0.1:1"], "--grpc needs --backend grpc"),
        (["--backend", "grpc"], "--url is for openai"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(http: FakeOpenAIServer, words: list[str], message: str) -> None:
    result = _bench("--url", http.url, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert http.bodies == []


def test_no_server_is_one_line_and_exit_code_1() -> None:
    with FakeOpenAIServer() as stopped:
        url = stopped.url
    result = _bench("--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no server answers at {url}; start one with `baton up`")


def _heed_sigint() -> None:
    """A process that a shell starts with `&` ignores SIGINT, and so would all it starts: tests, and what they test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_prints_what_there_is(http: FakeOpenAIServer) -> None:
    program = (
        "import typer; from cluster.commands import bench; app = typer.Typer(); app.command()(bench.command); app()"
    )
    words = ["--url", http.url, "--num-prompts", "3", "--concurrency", "1", "--output-len", "2"]
    http.scripts.extend([[{"choices": [{"text": "a", "finish_reason": "length"}]}], [Hang()]])
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heed_sigint,
    ) as process:
        try:
            assert http.hanging.wait(60)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "1 completed" in output
    assert "1 requests still running when interrupted are left out" in output
    assert http.cancelled.wait(10)
