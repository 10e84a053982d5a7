"""`baton profile` as a user types it: over the fake model, and (slow) over the demo."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from baton.errors import ConfigError
from cluster.commands import profile
from cluster.commands.simulate import command as simulate
from cluster.planner.costs.fitted import Profile

FAKE = ["load_format=fake", "device=cpu", "fake_step_s=0.003", "engine.max_model_len=256", "engine.max_sequences=8"]


def run(module: object, *words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(module.command)  # type: ignore[attr-defined]
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def settings(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.mark.slow
def test_a_profile_holds_fits_and_points_and_is_what_simulate_reads(tmp_path: Path) -> None:
    out, picture = tmp_path / "profile.json", tmp_path / "fits.png"
    result = run(profile, "--quick", "--out", out, "--plot", picture, *settings(*FAKE))
    assert result.exit_code == 0, result.output
    for told in ("prefill", "decode", "mixed", "KV over auto", f"written to {out}"):
        assert told in result.output
    taken = Profile.from_text(out.read_text())
    assert (taken.model, taken.max_model_len, taken.num_cores) == ("demo", 256, 1)
    # The fake sleeps 3 ms per step, whatever the step.
    assert taken.latencies["1"].step_s((), 4, 400) > 0.003
    content = json.loads(out.read_text())
    assert content["version"] == 3
    assert content["contention"]["workers_per_machine"] >= 1
    kinds = {(bool(point["prompts"]), point["num_decodes"] > 0) for point in content["points"]["steps"]}
    assert kinds == {(True, False), (False, True), (True, True)}
    assert {point["transport"] for point in content["points"]["transfers"]} == {"auto"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    simulated = run(simulate, "--profile", out, "--rate", "4", "--num-requests", "20", "--input-len", "60")
    assert simulated.exit_code == 0, simulated.output


def test_a_profile_of_mixed_workers_says_that_it_holds_no_kv_transfers(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    result = run(profile, "--quick", "--out", out, *settings(*FAKE, "pools.mixed.workers=1"))
    assert result.exit_code == 0, result.output
    assert Profile.from_text(out.read_text()).transfers == {}
    assert "note: no KV transfers, as the config has no prefill workers" in result.output


@pytest.mark.slow
def test_a_profile_of_a_gang_is_of_its_degree_and_simulates_such_workers_alone(tmp_path: Path) -> None:
    out, alike, unlike = tmp_path / "profile.json", tmp_path / "gang.yaml", tmp_path / "plain.yaml"
    gang = ("pools.mixed.workers=1", "pools.mixed.tensor_parallel=2")
    result = run(profile, "--quick", "--out", out, *settings(*FAKE, *gang))
    assert result.exit_code == 0, result.output
    assert list(Profile.from_text(out.read_text()).latencies) == ["tp2"]
    alike.write_text("model: demo\npools: {mixed: {workers: 2, tensor_parallel: 2}}")
    unlike.write_text("model: demo\npools: {mixed: {workers: 2}}")
    load = ("--profile", out, "--rate", "4", "--num-requests", "20", "--input-len", "60")
    assert run(simulate, alike, *load).exit_code == 0
    refused = run(simulate, unlike, *load)
    assert "pools: the profile holds workers of degree tp2, the config asks for 1" in str(refused.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "/nowhere/p.json"], "--out /nowhere/p.json cannot be written"),
        (["--out", "p.png", "--plot", "p.png"], "--plot p.png would write over --out p.png"),
        (["--model", "demo", *settings("model=demo-draft")], "--model demo and --set model=demo-draft name two models"),
        (["--plot", "fits.bmp"], "--plot fits.bmp: unknown kind '.bmp'"),
        (["--model", "/nowhere/model"], "model: '/nowhere/model' is no folder"),
        (
            settings("pools.prefill.cores=[[0, 1]]", "pools.decode.cores=[[0]]"),
            "workers have different numbers of cores per rank (prefill-0 2, decode-0 1)",
        ),
    ],
)
def test_bad_options_are_refused_before_anything_starts(words: list[str], message: str) -> None:
    result = run(profile, *words)
    assert isinstance(result.exception, ConfigError), result.output
    assert message in result.exception.message


@pytest.mark.slow
def test_the_demo_model_is_profiled_on_this_machine(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    result = run(profile, "--model", "demo", "--quick", "--out", out)
    assert result.exit_code == 0, result.output
    taken = Profile.from_text(out.read_text())
    assert (taken.token_bytes, taken.num_layers, taken.max_model_len) == (3072, 8, 2048)
    assert set(taken.errors) == {"prefill", "decode", "mixed"}
    assert taken.transfers["auto"].transfer_s(1 << 20) > 0
    simulated = run(simulate, "--profile", out, "--rate", "4", "--num-requests", "20")
    assert "20 of 20" in simulated.output
