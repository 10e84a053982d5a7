"""`baton simulate` as a user types it, over a tiny profile."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.planner.costs.fitted import FittedLatency, Profile
from cluster.planner.costs.transfer import Path as TransferPath
from tests.unit.commands.typed import Typed, refusal, typed

# A step takes 2 ms, and 0.1 ms more per prompt token or decode.
LATENCY = FittedLatency(
    base_s=2e-3,
    prompt_s=0.0,
    decode_s=0.0,
    knots=(0,),
    slopes_s=(1e-4,),
    chunk_s=0.0,
    pair_s=0.0,
    read_s=0.0,
    sequence_s=0.0,
    context_s=0.0,
)
PROFILE = Profile(
    model="demo",
    fingerprint="f",
    dtype="bfloat16",
    machine="a test",
    token_bytes=3072,
    num_layers=8,
    max_model_len=2048,
    latencies={"1": LATENCY},
    transfers={"auto": TransferPath(bandwidth=1e9, latency_s=1e-3)},
    to_worker_s=1e-3,
    to_client_s=1e-3,
    start_s=2.0,
)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(PROFILE.to_text())
    return path


def run(*words: object) -> Typed:
    return typed("simulate", *words)


def error(*words: object) -> str:
    return refusal("simulate", *words)


def write_trace(path: Path, rows: list[tuple[float, int, int]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["TIMESTAMP", "ContextTokens", "GeneratedTokens"])
        writer.writerows((f"2023-11-16 18:15:{at_s:09.6f}", prompt, output) for at_s, prompt, output in rows)
    return path


def content(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def test_a_run_prints_tables_and_writes_a_record_per_request(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    words = ["--profile", profile, "--rate", "5", "--num-requests", "40", "--input-len", "200", "--output-len", "20"]
    result = run(*words, "--seed", "7", "--out", out)
    assert result.code == 0, result
    for told in ("40 of 40", "TTFT", "TPOT", "E2E", "prefill-0", "decode-0", "within 500 ms TTFT, 50 ms TPOT"):
        assert told in result.out
    found = content(out)
    assert (found["seed"], found["num_finished"], len(found["records"])) == (7, 40, 40)
    assert found["trace_hash"] in result.out
    assert found["ttft_ms"]["p50"] <= found["ttft_ms"]["p99"]
    assert {worker["worker_id"] for worker in found["workers"]} == {"prefill-0", "decode-0"}
    assert found["config"]["pools"]["prefill"]["workers"] == 1


def test_one_request_takes_what_its_steps_and_the_way_take(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    trace = write_trace(tmp_path / "t.csv", [(0.0, 400, 11)])
    result = run("--profile", profile, "--trace", trace, "--out", out, "--set", "pools.mixed.workers=1")
    assert result.code == 0, result
    (record,) = content(out)["records"]
    assert record["ttft_s"] == pytest.approx(2e-3 + 400 * 1e-4 + 2 * 1e-3)  # the step, and the way there and back
    assert record["tpot_s"] == pytest.approx(2e-3 + 1e-4)


def test_the_same_seed_gives_the_same_trace_hash_and_another_one_another(profile: Path, tmp_path: Path) -> None:
    hashes = []
    for number, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"{number}.json"
        assert run("--profile", profile, "--rate", "9", "--num-requests", "30", "--seed", seed, "--out", out).code == 0
        hashes.append(content(out)["trace_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_trace_is_played_at_the_rate_asked_for(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    trace = write_trace(tmp_path / "t.csv", [(number * 1.0, 100, 5) for number in range(11)])
    assert run("--profile", profile, "--trace", trace, "--rate", "10", "--out", out).code == 0
    arrived = [record["arrived_s"] for record in content(out)["records"]]
    assert arrived[-1] - arrived[0] == pytest.approx(1.0)


def test_a_fault_is_told_beside_the_run_without_it(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    words = ["--profile", profile, "--rate", "20", "--num-requests", "100", "--output-len", "60"]
    result = run(*words, "--faults", "kill_decode@2s", "--out", out)
    assert result.code == 0, result
    assert "without faults" in result.out
    found = content(out)
    assert found["faults"][0]["kind"] == "kill_decode"
    assert found["num_retried"] > 0
    assert found["ttft_ms"]["p99"] > 2 * found["without_faults"]["ttft_ms"]["p99"]


def test_a_picture_of_the_run_is_drawn(profile: Path, tmp_path: Path) -> None:
    picture = tmp_path / "timeline.png"
    words = ["--profile", profile, "--rate", "9", "--num-requests", "20", "--faults", "kill_prefill@1s"]
    ended = run(*words, "--timeline", picture)
    assert ended.code == 0, ended
    assert f"written: {picture}" in ended.out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_states_of_all_sequences_that_may_run_count_against_the_memory() -> None:
    words = ["--hardware", "l4", "--model", "Qwen/Qwen3.5-9B", "--rate", "1", "--set", "engine.memory=1GiB"]
    said = " ".join(error(*words, "--set", "engine.max_sequences=256").split())
    assert "hold 0 KV blocks" in said
    assert "beside 51511296 bytes of states for each of engine.max_sequences 256, 1 are needed" in said


def test_hardware_stands_in_for_a_profile(tmp_path: Path) -> None:
    words = ["--hardware", "h100", "--model", "meta-llama/Llama-3.1-8B", "--set", "engine.memory=20GiB"]
    result = run(*words, "--rate", "4", "--num-requests", "40")
    assert result.code == 0, result
    assert "data sheet of h100" in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "3"], "--hardware NAME or --profile FILE: neither"),
        (["--rate", "3", "--hardware", "warp9"], "hardware 'warp9' is not known; give one of"),
        (["--rate", "3", "--hardware", "h100", "--model", "nobody/nothing-at-all"], "nobody/nothing-at-all"),
        (["--rate", "3", "--hardware", "a100-80g", "--set", "kv.dtype=fp8"], "kv.dtype: fp8: a100-80g has no FP8"),
        (
            ["--rate", "3", "--hardware", "l4", "--model", "meta-llama/Llama-3.1-70B"],
            "lower engine.memory, or give larger",
        ),
    ],
)
def test_costs_that_cannot_be_are_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in error(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--rate is needed without --trace"),
        (["--rate", "0"], "--rate 0 must be a number of requests/s above 0"),
        (["--rate", "3", "--clip"], "--clip is about --trace; give --trace too"),
        (["--rate", "3", "--gap-cv", "nan"], "--gap-cv nan must be 0 or more"),
        (["--rate", "3", "--gap-cv", "1e6"], "--gap-cv 1e+06 must be 100 or less"),
        (["--rate", "1e12"], "--rate 1e+12 must be 1,000,000 or less"),
        (["--rate", "3", "--output-len", "99999999999"], "--output-len 1e+11 must be 100,000,000 or less"),
        (["--rate", "3", "--num-requests", "0"], "--num-requests 0 must be 1 or more"),
        (["--rate", "3", "--num-requests", "99999999999"], "--num-requests 1e+11 must be 10,000,000 or less"),
        (["--rate", "3", "--seed", "-1"], "--seed -1 must be 0 or more"),
        (["--trace", "t.csv", "--num-requests", "9"], "--num-requests 9: it is for synthetic requests, --trace has"),
        (["--trace", "t.csv", "--input-len", "9"], "--input-len 9: it is for synthetic requests, --trace has its own"),
        (["--trace", "t.csv", "--out", "t.csv"], "--out t.csv would write over --trace t.csv; give another file"),
        (["--rate", "3", "--out", "a.png", "--timeline", "a.png"], "--timeline a.png would write over --out a.png"),
        (["--rate", "3", "--faults", ","], "--faults ',' names no fault; write KIND[:WORKER]@TIME"),
        (["--rate", "3", "--faults", "slow_start@1s*2/5s"], "slow_start: no worker starts meanwhile; add what makes"),
        (
            ["--rate", "3", "--faults", "slow_link@1s*0.1/5s", "--set", "pools.mixed.workers=1"],
            "slow_link: no KV moves between mixed workers",
        ),
        (["--rate", "3", "--limit", "5"], "--limit 5 is about --trace"),
        (["--rate", "3", "--model", "demo"], "--model demo: --profile is of its own model"),
        (["--rate", "3", "--hardware", "h100"], "both were given"),
        (["--rate", "3", "--set", "model=demo-draft"], "the profile is of model 'demo', not 'demo-draft'"),
        (["--rate", "3", "--set", "dtype=float32"], "dtype: float32 in the config, the profile is of bfloat16"),
        (["--rate", "3", "--set", "kv.dtype=fp8"], "kv.dtype: fp8 in the config, the profile is of auto"),
        (["--rate", "3", "--set", "kv.transport=grpc"], "kv.transport: grpc was not measured, the profile has auto"),
        (["--rate", "3", "--set", "pools.prefill.cores=[[0, 1]]"], "pools.prefill.cores: 2 per rank"),
        (["--rate", "3", "--faults", "kill_dcode@1s"], "unknown kind 'kill_dcode'; known are kill, kill_prefill"),
        (["--rate", "3", "--faults", "kill_mixed@1s"], "no mixed worker; its workers are prefill-0, decode-0"),
        (["--rate", "3", "--faults", "kill:decode-4@1s"], "cannot hit worker 'decode-4'"),
        (
            ["--rate", "3", "--num-requests", "30", "--faults", "kill@99s"],
            "time 99s is after the last request's, 10.0s",
        ),
        (["--rate", "3", "--out", "/nowhere/run.json"], "--out /nowhere/run.json cannot be written"),
        (["--rate", "3", "--timeline", "run.bmp"], "--timeline run.bmp: unknown kind '.bmp'"),
    ],
)
def test_bad_options_are_refused_by_name(profile: Path, words: list[str], message: str) -> None:
    assert message in error("--profile", profile, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speculation.method=none"], "--draft-acceptance: speculation.method is none in the config: nothing drafts"),
        (["speculation.method=self"], "--draft-acceptance: speculation.method is self in the config, and what drafts"),
        (["pools.draft.workers=1"], "pools.draft.model: demo-draft: the profile holds draft models none"),
    ],
)
def test_drafts_that_cannot_be_simulated_are_refused_by_what_asks_for_them(
    profile: Path, words: list[str], message: str
) -> None:
    asked = [part for word in words for part in ("--set", word)]
    assert message in error("--profile", profile, "--rate", "3", "--draft-acceptance", "0.7", *asked)


def test_a_model_without_a_draft_of_its_own_is_refused_as_by_up() -> None:
    words = ("--hardware", "h100", "--rate", "3", "--set", "pools.draft.workers=1", "--draft-acceptance", "0.7")
    assert "pools.draft.model: is left out, and for 1 draft worker smollm2 has no draft model" in error(*words)


def test_what_is_not_simulated_of_drafts_is_noted(profile: Path) -> None:
    words = ("--rate", "3", "--num-requests", "20", "--set", "pools.draft.workers=1")
    assert "drafts are not simulated: the profile holds no costs of demo-draft" in run("--profile", profile, *words).out
    words = ("--hardware", "h100", "--model", "demo", *words, "--set", "pools.draft.layer_parallel=2")
    assert "drafts are not simulated: how often they are right is not known" in run(*words).out
    ended = run(*words, "--draft-acceptance", "0.7")
    assert "draft workers of 2 ranks are simulated as ones of one rank" in ended.out


def test_a_profile_without_kv_transfers_is_of_mixed_workers_alone(profile: Path) -> None:
    profile.write_text(replace(PROFILE, transfers={}).to_text())
    words = ("--profile", profile, "--rate", "3", "--num-requests", "20")
    said = error(*words)
    assert "pools: the profile holds no KV transfers" in said
    assert "or simulate pools.mixed alone" in said
    assert run(*words, "--set", "pools.mixed.workers=2").code == 0


def test_a_model_that_is_named_twice_is_refused() -> None:
    said = error("--hardware", "h100", "--rate", "3", "--model", "demo", "--set", "model=demo-draft")
    assert "--model demo and --set model=demo-draft name two models" in said


def test_a_profile_of_another_model_of_the_same_name_is_refused(profile: Path) -> None:
    profile.write_text(replace(PROFILE, num_layers=4).to_text())
    assert "other weights than demo's here: 4 layers with KV" in error("--profile", profile, "--rate", "3")


def test_a_profile_of_another_version_is_refused(profile: Path) -> None:
    profile.write_text(json.dumps({**json.loads(PROFILE.to_text()), "version": 99}))
    assert "version 99; this baton reads version " in error("--profile", profile, "--rate", "3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (PROFILE.to_text()[:500].encode(), "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "must be a mapping with version, model"),
        (b"{}", "version None; this baton reads version"),
        (b"\x1f\x8b\x08", "cannot be read: not UTF-8 text"),
        (PROFILE.to_text().replace('"max_model_len": 2048', '"max_model_len": 0').encode(), "max_model_len 0 must be"),
        (
            PROFILE.to_text().replace('"bandwidth": 1000000000.0', '"bandwidth": 0').encode(),
            "bandwidth 0 must be above",
        ),
    ],
)
def test_a_profile_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    said = error("--profile", path, "--rate", "3")
    assert said.startswith(f"error: --profile {path}")
    assert message in said
    assert "`baton profile`" in said


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in error("--profile", tmp_path / "nope.json", "--rate", "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n", "lacks the column GeneratedTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,0,5\n", "ContextTokens '0' must be"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,5,5\n2023-11-16 18:15:45,5,5\n",
            "t.csv:3: the time is 1 s before the line above",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3000,5\n",
            "1 of 1 requests exceed demo's context of 2048 tokens, the first with 3000 + 5",
        ),
    ],
)
def test_a_bad_trace_is_refused(profile: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert message in error("--profile", profile, "--trace", tmp_path / "t.csv")


def test_clip_cuts_what_a_trace_asks_too_much(profile: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.csv", [(0.0, 3000, 5), (1.0, 10, 5)])
    result = run("--profile", profile, "--trace", trace, "--clip")
    assert result.code == 0, result
    assert "1 of 2 requests were cut to the context of 2048 tokens" in result.out


def test_a_hand_over_costs_what_the_profile_says(tmp_path: Path) -> None:
    times = []
    for handover_s in (0.0, 0.004):
        path, out = tmp_path / "p.json", tmp_path / "r.json"
        path.write_text(replace(PROFILE, handover_s=handover_s).to_text())
        trace = write_trace(tmp_path / "t.csv", [(0.0, 400, 11)])
        assert run("--profile", path, "--trace", trace, "--out", out).code == 0
        times.append(content(out)["records"][0]["ttft_s"])
    assert times[1] - times[0] == pytest.approx(0.004)


@pytest.mark.parametrize("name", ["simulate", "profile"])
def test_help_tells_every_option(name: str) -> None:
    result = typed(name, "--help")
    assert result.code == 0, result
    assert "--out" in result.out
    assert "kill_decode@30s, slow_link:prefill-0@9s*0.1/5s" in result.out or name == "profile"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_result_that_cannot_be_written_is_named(profile: Path) -> None:
    said = error("--profile", profile, "--rate", "3", "--num-requests", "3", "--out", "/dev/full")
    assert "--out /dev/full cannot be written: No space left on device; give another file" in said


def test_what_was_not_measured_is_a_dash(profile: Path) -> None:
    ended = run("--profile", profile, "--rate", "3", "--num-requests", "3", "--set", "router.request_timeout_s=0.001")
    assert ended.code == 0, ended
    assert "nan" not in ended.out
    assert "0 of 3" in ended.out


def test_the_autopilot_acts_when_asked_and_tells_what_it_did(profile: Path, tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text(
        "model: demo\npools: {prefill: {workers: 1}, decode: {workers: 2}}\nspeculation: {method: none}\n"
        "slo: {ttft_ms: 300}\nplanner: {interval_s: 5, window_s: 15, cooldown_s: 5}"
    )
    out = tmp_path / "run.json"
    load = ("--rate", 8, "--input-len", 1500, "--output-len", 2, "--num-requests", 120)
    words = (config, "--profile", profile, *load)
    assert "autopilot" not in run(*words).out
    told = run(*words, "--autopilot", "--out", out)
    assert told.code == 0, told.err
    assert "1 decode worker becomes 1 prefill worker" in " ".join(told.out.split())
    pilot = json.loads(out.read_text())["autopilot"]
    assert pilot["decisions"][0]["state"] == "applied"
    assert pilot["setups"][0]["decode"] == 2
    assert pilot["worker_hours"] > 0
    in_file = run(*words, "--set", "planner.mode=act")
    assert in_file.out.count("applied") == told.out.count("applied")
