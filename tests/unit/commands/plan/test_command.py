"""`baton plan` as a user types it: what it prints and writes, and how it says no."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton.errors import ConfigError
from cluster.commands.cost_options import CostOptions
from cluster.commands.plan.costs import read_costs
from cluster.commands.plan.file import plan_text
from cluster.commands.plan.options import MachineOptions, SearchOptions
from cluster.config.load import load, loads
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism
from cluster.planner.costs.draft import DraftShape
from cluster.planner.costs.fitted import FittedLatency, Profile
from cluster.planner.costs.transfer import Path as Link
from cluster.planner.search.candidates import Options, find
from cluster.planner.search.placement import Layout, PoolPlan, WorkerShape
from tests.unit.commands.typed import Typed, refusal, typed
from tests.unit.planner.toy_costs import ToyCosts, question
from workers.spec import Role

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SMALL = ("--gpus-per-node", "4", "--rate", "3", "--input-len", "800", "--output-len", "20", "--jobs", "1")


def plan(*words: object) -> Typed:
    return typed("plan", *words, columns=160)


def error(*words: object) -> str:
    return refusal("plan", *words)


@pytest.mark.slow
def test_it_prints_the_plans_and_writes_a_config_its_data_and_a_picture(tmp_path: Path) -> None:
    out, plot, data = tmp_path / "plan.yaml", tmp_path / "plan.png", tmp_path / "plan.json"
    words = ("--model", "meta-llama/Llama-3.1-8B", "--hardware", "l4", "--slo-ttft", "2000", "--slo-tpot", "150")
    files = ("--out", str(out), "--plot", str(plot), "--json", str(data))
    result = plan(*words, *SMALL, "--price", "0.7", *files)
    assert result.code == 0, result
    for shown in (
        "goodput per l4",
        "attainment, both",
        "TTFT P90, ms",
        "TPOT P99, ms",
        "KV memory to spare",
        "US$ per hour",
    ):
        assert shown in result.out
    assert "wins: " in result.out
    assert "20 % more requests: " in result.out
    assert f"written: {out}, {data}, {plot}" in result.out
    config = load(out)
    content = json.loads(data.read_text())
    best = content["plans"][0]
    pools = {role: getattr(config.pools, role).workers for role in ("prefill", "decode", "mixed")}
    assert {role: pool["workers"] for role, pool in best["pools"].items()} == {r: n for r, n in pools.items() if n}
    assert (config.model, config.device, config.slo.ttft_ms) == ("meta-llama/Llama-3.1-8B", "cuda", 2000.0)
    assert config.engine.memory_bytes < 24e9 - 16e9  # what the weights leave of an L4
    assert best["attainment"] >= 0.9
    assert best["goodput"] >= 3 * 0.99
    assert best["price_per_h"] == pytest.approx(0.7 * best["num_devices"])
    text = out.read_text()
    assert "# Made by: baton " in text
    assert "# Predicted at 3 requests/s: " in text
    assert "# Why: " in text
    assert plot.read_bytes().startswith(b"\x89PNG")


def layout_of(parallelism: Parallelism, draft: DraftShape | None = None) -> Layout:
    """One prefill worker of one device, two decode workers as asked."""
    costs = ToyCosts(degrees=(1, 2))
    one = find(question(costs=costs), Options(), Role.PREFILL).candidates[0]
    decode = WorkerShape(role=Role.DECODE, parallelism=parallelism, fit=one.shape.fit, draft=draft)
    pools = (PoolPlan(shape=one.shape, num_workers=1), PoolPlan(shape=decode, num_workers=2))
    return Layout(pools=pools, engine=one.engine)


def text_of(layout: Layout) -> str:
    return plan_text(question(), layout, ["why", "", "how"], model="demo", device="cuda", transport="gloo")


def test_a_plan_is_a_config_that_up_takes() -> None:
    text = text_of(layout_of(Parallelism()))
    assert text.startswith("# why\n#\n# how\nmodel: demo\n")
    config = loads(text)
    assert (config.pools.prefill.workers, config.pools.decode.workers) == (1, 2)
    assert (config.kv.transport, config.slo.tpot_ms, config.slo.attainment) == ("gloo", 1500.0, 0.9)
    assert config.engine.max_batched_tokens == layout_of(Parallelism()).engine.max_batched_tokens
    assert set(yaml.safe_load(text)) == {"model", "device", "pools", "engine", "kv", "slo"}  # defaults are left out


def test_a_plan_in_fp8_has_twice_the_context_in_as_much_memory() -> None:
    costs, machines, search = CostOptions(hardware="h200"), MachineOptions(), SearchOptions()
    model = "meta-llama/Llama-3.1-8B"
    plain, small = (read_costs(model, costs, replace(machines, kv_dtype=one), search) for one in (None, "fp8"))
    assert small.costs.token_bytes * 2 == plain.costs.token_bytes
    assert (plain.kv_dtype, small.kv_dtype) == ("auto", "fp8")
    text = plan_text(
        question(), layout_of(Parallelism()), [], model="demo", device="cuda", transport="auto", kv_dtype="fp8"
    )
    assert loads(text).kv.dtype == "fp8"


def test_the_router_of_a_busy_plan_lets_as_many_requests_run_as_stay_at_once() -> None:
    asked = question(rate=1000.0)  # each may stay 17 s within the SLO
    config = loads(plan_text(asked, layout_of(Parallelism()), [], model="demo", device="cuda", transport="auto"))
    assert config.router.max_running >= 2 * 17 * 1000
    assert config.router.max_queue >= 1000


@pytest.mark.parametrize(
    ("parallelism", "named"),
    [
        (Parallelism(sequence=2), "pools.decode.sequence_parallel"),
        (Parallelism(pipeline=2), "pools.decode.pipeline_parallel"),
    ],
)
def test_a_plan_that_cannot_be_started_is_refused_by_name(parallelism: Parallelism, named: str) -> None:
    text = text_of(layout_of(parallelism))
    with pytest.raises(ConfigError, match=f"^{named}: .* is not supported yet"):
        loads(text)


def test_a_plan_with_ranks_that_divide_heads_or_prompts_is_one_that_up_takes() -> None:
    layout = layout_of(Parallelism(tensor=2))
    for tensor in (1, 2):
        degrees = Parallelism(sequence=4, tensor=tensor)
        reading = replace(layout.pools[0], shape=replace(layout.pools[0].shape, parallelism=degrees))
        made = loads(text_of(replace(layout, pools=(reading, layout.pools[1])))).pools.prefill
        assert (made.sequence_parallel, made.tensor_parallel) == (4, tensor)
    pools = loads(text_of(layout)).pools
    assert (pools.prefill.tensor_parallel, pools.decode.tensor_parallel) == (1, 2)


def test_a_plan_with_draft_workers_is_one_that_up_takes() -> None:
    layout = layout_of(Parallelism(), DraftShape(layer_parallel=2, num_drafts=4))
    text = plan_text(question(), layout, [], model="demo", device="cuda", transport="auto", draft="demo-draft")
    config = loads(text)
    draft = config.pools.draft
    assert (draft.model, draft.layer_parallel, draft.workers) == ("demo-draft", 2, config.pools.decode.workers)
    assert (config.speculation.method, config.speculation.max_tokens) == ("auto", 4)


def test_unknown_hardware_lists_the_known() -> None:
    said = error("--model", "demo", "--hardware", "h2000", *SMALL)
    assert "'h2000' is not known" in said
    assert "h200" in said
    assert "l4" in said


def test_an_unknown_model_says_what_to_give() -> None:
    assert "nowhere/nothing" in error("--model", "nowhere/nothing", "--hardware", "h200", *SMALL)


def test_a_model_that_fits_no_device_says_the_bytes() -> None:
    said = error("--model", "meta-llama/Llama-3.1-405B", "--hardware", "l4", "--hypothetical", *SMALL)
    assert "fits no l4 at any degree: at tp4 a device needs " in said
    assert "has 24,000,000,000" in said
    said = error("--model", "meta-llama/Llama-3.1-405B", "--hardware", "h100", *SMALL)
    assert "at any degree that this version starts: at tp4 a device needs " in said


def test_a_limit_that_no_plan_meets_is_named_with_the_closest() -> None:
    said = error("--model", "meta-llama/Llama-3.1-8B", "--hardware", "l4", "--slo-tpot", "1", *SMALL)
    assert "--slo-tpot 1: no plan meets it: the closest, an idle " in said


@pytest.mark.slow
def test_a_rate_that_is_too_much_names_the_closest_plan_that_is_there() -> None:
    words = ("--gpus-per-node", "1", "--rate", "3000", "--jobs", "1", "--output-len", "4")
    said = error("--model", "meta-llama/Llama-3.1-8B", "--hardware", "h100", *words)
    assert "no plan on 1 h100 holds the SLO at 3000 requests/s: the closest, 1 mixed, serves " in said
    assert "90% are wanted (--slo-ttft 500 is met by " in said
    assert "give more nodes, a lower --rate or a wider limit" in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--rate 3", "--hardware NAME or --profile FILE: neither was given"),
        ("--rate 3 --hardware h200 --profile p.json", "--hardware NAME or --profile FILE: both were given"),
        ("--hardware h200", "--rate is needed without --trace"),
        ("--hardware h200 --rate -1", "--rate -1 must be a number of requests/s above 0"),
        ("--hardware h200 --rate nan", "--rate nan must be a number of requests/s above 0"),
        (
            "--hardware h200 --rate 1e-12",
            "4000 requests come over 4.63e+10 days, 100 are allowed; give a higher --rate",
        ),
        ("--hardware h200 --rate 3 --gap-cv inf", "--gap-cv inf must be 0 or more"),
        ("--hardware h200 --rate 3 --input-len 0", "--input-len 0 must be 1 or more"),
        ("--hardware h200 --rate 3 --limit 5", "--limit 5 is about --trace or --lengths-of; give one too"),
        ("--hardware h200 --rate 3 --clip", "--clip is about --trace; give --trace too"),
        ("--hardware h200 --trace t.csv --gap-cv 2", "--gap-cv 2.0: it is for synthetic requests, --trace has its own"),
        ("--hardware h200 --trace t.csv --output-len 9", "--output-len 9: it is for synthetic requests"),
        ("--hardware h200 --rate 3 --slo-ttft -5", "--slo-ttft -5 must be a number of ms above 0"),
        ("--hardware h200 --rate 3 --slo-tpot inf", "--slo-tpot inf must be a number of ms above 0"),
        ("--hardware h200 --rate 3 --attainment 90", "--attainment 90 must be a share above 0 and up to 1"),
        ("--hardware h200 --rate 3 --attainment 0", "--attainment 0 must be a share above 0 and up to 1"),
        ("--hardware h200 --rate 3 --nodes 0", "--nodes 0 must be 1 or more"),
        ("--hardware h200 --rate 3 --gpus-per-node 0", "--gpus-per-node 0 must be 1 or more"),
        ("--hardware h200 --rate 3 --nodes 9999999", "--nodes 1e+07 must be 100,000 or less"),
        ("--hardware h200 --rate 3 --gpus-per-node 9999", "--gpus-per-node 9999 must be 1,024 or less"),
        ("--hardware h200 --rate 3 --price inf", "--price inf must be 0 or more"),
        ("--hardware h200 --rate 3 --jobs 0", "--jobs 0 must be 1 or more"),
        ("--hardware h200 --rate 3 --seed -1", "--seed -1 must be 0 or more"),
        ("--hardware h200 --rate 3 --kv-dtype int8", "--kv-dtype int8 is unknown; choose one of auto, fp8"),
        ("--hardware a100-80g --rate 3 --kv-dtype fp8", "--kv-dtype: fp8: a100-80g has no FP8, h100, h200"),
        ("--profile p.json --gpus-per-node 2 --rate 3 --kv-dtype fp8", "--kv-dtype fp8: --profile says what its"),
        ("--hardware h200 --rate 3 --kv-memory 2GiB", "--kv-memory 2GiB: --hardware has its own memory"),
        ("--hardware h200 --rate 3 --draft demo-draft", "--draft MODEL and --draft-acceptance"),
        ("--hardware h200 --rate 3 --draft demo-draft --draft-acceptance 2", "--draft-acceptance 2 must be a share"),
        ("--hardware h200 --rate 3 --allow-pp", "--allow-pp: this version starts no such workers; add --hypothetical"),
        ("--hardware h200 --rate 3 --draft-acceptance 0.7", "--draft MODEL and --draft-acceptance"),
        ("--profile p.json --rate 3", "--gpus-per-node is needed with --profile"),
        (
            "--profile p.json --gpus-per-node 2 --rate 3 --allow-pp --hypothetical",
            "--allow-pp: --profile holds no costs of such",
        ),
        ("--hardware h200 --rate 3 --out /nowhere/plan.yaml", "--out /nowhere/plan.yaml"),
        ("--hardware h200 --rate 3 --plot plan.gif", "--plot plan.gif: unknown kind"),
        ("--hardware h200 --rate 3 --out a --json ./a", "--json a would write over --out a; give two files"),
        ("--hardware h200 --trace t.csv --out t.csv", "--out t.csv would write over --trace t.csv"),
    ],
)
def test_wrong_options_are_named(words: str, named: str) -> None:
    assert named in error("--model", "demo", *words.split())


def test_requests_of_one_instant_have_no_rate(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text(f"{HEAD}2024-01-01 00:00:00,9,3\n2024-01-01 00:00:00,9,3\n")
    said = error("--model", "demo", "--hardware", "h200", "--trace", trace)
    assert "2 requests of t.csv: all come at one instant, which is no rate" in said


@pytest.mark.slow
def test_a_plan_for_a_processor_does_not_ask_for_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "plan.yaml"
    ended = plan("--model", "demo", "--hardware", "epyc-2c", *SMALL, "--gpus-per-node", "1", "--out", out)
    assert ended.code == 0, ended
    assert load(out).device == "cpu"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "is empty"),
        ("TIMESTAMP,ContextTokens\n", "lacks the column GeneratedTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,0,3\n", "ContextTokens"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:05,9,3\n2024-01-01 00:00:00,9,3\n",
            "before the line above",
        ),
    ],
)
def test_a_bad_trace_is_named(tmp_path: Path, content: str, named: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(content)
    assert named in error("--model", "demo", "--hardware", "h200", "--trace", str(trace))


def profile_of(**changes: Any) -> Profile:
    latency = FittedLatency(
        base_s=0.005,
        prompt_s=0.001,
        decode_s=0.001,
        knots=(0,),
        slopes_s=(0.0005,),
        chunk_s=0.0,
        pair_s=0.0,
        read_s=0.0,
        sequence_s=0.0001,
        context_s=0.0,
    )
    fields: dict[str, Any] = {
        "model": "demo",
        "fingerprint": "f",
        "dtype": "float32",
        "machine": "a test",
        "token_bytes": 6144,
        "num_layers": 8,
        "max_model_len": 2048,
        "latencies": {"1": latency},
        "transfers": {"shm": Link(bandwidth=1e9)},
    }
    return Profile(**{**fields, **changes})


@pytest.mark.slow
def test_a_profile_plans_for_the_machine_that_was_measured(tmp_path: Path) -> None:
    path, out = tmp_path / "profile.json", tmp_path / "plan.yaml"
    path.write_text(profile_of().to_text())
    words = ("--model", "demo", "--profile", str(path), "--gpus-per-node", "3", "--jobs", "1", "--kv-memory", "64MiB")
    load_words = ("--rate", "5", "--input-len", "200", "--output-len", "20", "--slo-ttft", "600", "--slo-tpot", "60")
    result = plan(*words, *load_words, "--out", str(out))
    assert result.code == 0, result
    assert "a test, as profiled in profile.json" in result.out
    config = load(out)
    assert config.kv.transport == "shm"
    assert config.engine.memory_bytes <= 64 << 20


@pytest.mark.slow
@pytest.mark.timeout(600)  # two searches, 150 s beside much other work
def test_a_profile_says_whether_a_draft_worker_pays(tmp_path: Path) -> None:
    path, out = tmp_path / "profile.json", tmp_path / "plan.yaml"
    plain = profile_of()
    words = ("--model", "demo", "--profile", str(path), "--gpus-per-node", "4", "--jobs", "1", "--kv-memory", "64MiB")
    words += ("--rate", "1", "--input-len", "20", "--output-len", "20", "--slo-ttft", "600", "--draft", "demo-draft")
    path.write_text(plain.to_text())
    assert (
        "--draft demo-draft: the profile holds draft models none; run `baton profile` with pools.draft.model"
        in error(*words)
    )
    known = plain.latencies["1"]
    free = replace(known, base_s=0.0, prompt_s=0.0, decode_s=0.0, slopes_s=(0.0,) * len(known.knots))
    drafts = {"drafts": {"demo-draft": free}, "acceptance": {"demo-draft": DraftChances((1.0,))}}
    path.write_text(replace(plain, **drafts).to_text())
    tpot_ms = plain.latencies["1"].step_s((), 1, 30) * 1000
    tight = plan(*words, "--slo-tpot", str(0.8 * tpot_ms), "--out", out)
    assert tight.code == 0, tight
    assert "Draft workers pay: no plan without them holds the SLO on these devices" in tight.out
    assert load(out).pools.draft.model == "demo-draft"
    loose = plan(*words, "--slo-tpot", str(20 * tpot_ms))
    assert "Draft workers do not pay: without them it takes 1 worker" in loose.out


def test_another_vocabulary_is_no_draft() -> None:
    words = ("--model", "meta-llama/Llama-3.1-8B", "--hardware", "h200", "--draft-acceptance", "0.7", *SMALL)
    said = error(*words, "--draft", "demo-draft")
    assert "--draft demo-draft: its vocabulary has 4096 tokens, meta-llama/Llama-3.1-8B's has 128256" in said
    assert "--draft demo-hybrid: has linear attention: a guess that" in error(*words, "--draft", "demo-hybrid")


def test_a_profile_of_another_model_or_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    words = ("--profile", str(path), "--gpus-per-node", "2", "--rate", "1")
    path.write_text(profile_of(model="other").to_text())
    assert "the profile is of model 'other', not 'demo'" in error("--model", "demo", *words)
    path.write_text(json.dumps({**profile_of().to_dict(), "version": 99}))
    assert "version 99; this baton reads version" in error("--model", "demo", *words)
    path.unlink()
    assert "cannot be read" in error("--model", "demo", *words)


def test_kv_memory_that_is_no_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile_of().to_text())
    words = ("--model", "demo", "--profile", path, "--gpus-per-node", "2", "--rate", "1")
    assert "--kv-memory 'much' is no size; give bytes or KiB" in error(*words, "--kv-memory", "much")
    assert "--kv-memory 1024 is out of range" in error(*words, "--kv-memory", "1KiB")


@pytest.mark.parametrize(
    ("transfers", "nodes", "because"),
    [
        ({}, 1, "profile.json has no measured KV transport; `baton profile` of a config"),
        pytest.param(
            {"shm": Link(bandwidth=1e9)},
            2,
            "no measured KV transport that reaches another node (nccl, gloo, grpc); `baton profile` without --quick",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_profile_without_a_kv_transport_plans_one_pool_and_says_why(
    tmp_path: Path, transfers: dict[str, Link], nodes: int, because: str
) -> None:
    path, out = tmp_path / "profile.json", tmp_path / "plan.yaml"
    path.write_text(profile_of(transfers=transfers).to_text())
    words = ("--model", "demo", "--profile", path, "--nodes", nodes, "--gpus-per-node", "2", "--slo-ttft", "600")
    ended = plan(*words, "--rate", "2", "--input-len", "200", "--output-len", "20", "--jobs", "1", "--out", out)
    assert ended.code == 0, ended
    assert "Co-located is the only kind that was looked at: " in ended.out
    assert because in ended.out
    assert "disaggregated" not in ended.out
    config = load(out)
    assert (config.pools.mixed.workers > 0, config.kv.transport) == (True, "auto")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_layers": 4}, "other weights than demo's here: 4 layers with KV, config.json makes it 8"),
        ({"token_bytes": 9}, "other weights than demo's here: 9 bytes of KV per token, config.json makes it 6144"),
        ({"state_bytes": 7}, "other weights than demo's here: 7 bytes of states per sequence, config.json makes it 0"),
        ({"max_model_len": 9999}, "other weights than demo's here: a context of 9999 tokens, config.json says 2048"),
    ],
)
def test_a_profile_of_another_model_of_the_same_name_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile_of(**changes).to_text())
    said = error("--model", "demo", "--profile", path, "--gpus-per-node", "2", "--rate", "1")
    assert named in said
    assert said.endswith("run `baton profile --model demo` again")
