"""What `baton bench` refuses before anything is sent, and what it sends where nothing is asked."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from baton.errors import ConfigError
from cluster.commands import bench
from cluster.load.options import LoadOptions, check, parse_goodput
from tests.http_server import FakeOpenAIServer


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "soap"}, "--backend soap is unknown"),
        ({"rate": 1.0, "concurrency": 1}, "--rate sends by the clock, --concurrency by the answers"),
        ({"burstiness": 0.5}, "give --rate too"),
        ({"trace": Path("t.csv"), "rate": 1.0}, "--trace brings its own arrival times"),
        ({"trace_speed": 2.0}, "--trace-speed needs --trace"),
        ({"trace": Path("t.csv"), "trace_speed": 2.0, "concurrency": 1}, "--trace-speed needs --trace"),
        ({"trace": Path("t.csv"), "prompts": Path("p.txt")}, "two workloads"),
        ({"trace": Path("t.csv"), "num_prompts": 3}, "use --limit"),
        ({"prompts": Path("p.txt"), "input_len": 3}, "--input-len and --range-ratio are for synthetic prompts"),
        ({"prompts": Path("p.txt"), "clip": True}, "--vocab-size and --clip are for token-id prompts"),
        ({"limit": 3}, "--limit cuts --prompts or --trace"),
        ({"concurrency": 0}, "--concurrency 0 must be at least 1"),
        ({"num_prompts": -1}, "--num-prompts -1"),
        ({"input_len": 0}, "--input-len 0"),
        ({"output_len": 0}, "--output-len 0"),
        ({"rate": 0.0}, "--rate 0.0 must be a number over 0"),
        ({"rate": float("nan")}, "--rate nan"),
        ({"rate": float("inf")}, "--rate inf"),
        ({"rate": 1.0, "burstiness": -1.0}, "--burstiness -1.0"),
        ({"range_ratio": 1.0}, "--range-ratio 1.0"),
        ({"warmup": -1}, "--warmup -1"),
        ({"seed": -1}, "--seed -1"),
        ({"temperature": -0.5}, "--temperature -0.5"),
        ({"timeout_s": 0.0}, "--timeout-s 0.0"),
        ({"goodput": {"speed": 5.0}}, "--goodput speed:5 is not a target"),
        ({"goodput": {"ttft": 0.0}}, "--goodput ttft:0 is not a target"),
    ],
)
def test_what_contradicts_or_is_out_of_range_names_the_option(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(LoadOptions(**given))


def test_without_options_100_prompts_of_512_tokens_are_sent_16_at_once(http: FakeOpenAIServer) -> None:
    app = typer.Typer()
    app.command()(bench.command)
    ended = CliRunner().invoke(app, ["--url", http.url], env={"COLUMNS": "200"})
    assert ended.exit_code == 0, ended.output
    assert "100 completed" in ended.output
    assert {(len(body["prompt"]), body["max_tokens"], body["temperature"]) for body in http.bodies} == {(512, 128, 0)}
    assert len(http.bodies) == 100
    assert http.peak <= 16


@pytest.mark.parametrize(
    "words", [["ttft:500", "tpot:50"], ["ttft:500 tpot:50"], ["ttft:500,tpot:50"]], ids=["apart", "spaced", "commas"]
)
def test_goodput_targets_may_be_written_apart_or_together(words: list[str]) -> None:
    assert parse_goodput(words) == {"ttft": 500.0, "tpot": 50.0}


def test_a_goodput_target_without_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ttft' is not a goodput target"):
        parse_goodput(["ttft"])
