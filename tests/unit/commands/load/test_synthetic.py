"""Requests that `baton plan` and `baton simulate` make up: what each option does, and how bad ones are named."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.commands.load.arrivals import ReadArrivals, read_requests
from cluster.commands.load.options import ArrivalOptions
from cluster.planner.load.sampled import SampledWorkload
from tests.unit.commands.simulate.test_command import PROFILE, write_trace
from tests.unit.commands.typed import refusal, typed

MIX = ["3:100:10", "1:1500:40"]


def requests(num_synthetic: int = 2000, **given: Any) -> ReadArrivals:
    load = ArrivalOptions(rate=5.0, **given)
    load.check()
    return read_requests(load, num_synthetic=num_synthetic, seed=1, model="demo", max_model_len=100_000, block_size=16)


def test_a_mix_draws_each_kind_by_its_share_around_its_own_means() -> None:
    made = requests(mix=MIX)
    assert made.described == "synthetic requests of 75 % 100 + 10, 25 % 1500 + 40 tokens on average"
    prompts = np.array([one.num_prompt_tokens for one in made.arrivals])
    outputs = np.array([one.num_output_tokens for one in made.arrivals])
    assert prompts.mean() == pytest.approx(0.75 * 100 + 0.25 * 1500, rel=0.1)
    is_long = prompts > 450
    assert is_long.mean() == pytest.approx(0.25, abs=0.03)
    assert (outputs[~is_long].mean(), outputs[is_long].mean()) == (
        pytest.approx(10, rel=0.1),
        pytest.approx(40, rel=0.1),
    )


def test_shares_are_weights() -> None:
    assert requests(mix=["0.7:30:8", "0.3:60:2"]).arrivals == requests(mix=["7:30:8", "3:60:2"]).arrivals


def test_lengths_of_a_trace_are_drawn_together_and_come_at_the_rate(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.csv", [(0.0, 400, 11), (9.0, 30, 99), (50.0, 7, 7)])
    made = requests(lengths_of=trace)
    counts = Counter((one.num_prompt_tokens, one.num_output_tokens) for one in made.arrivals)
    assert set(counts) == {(400, 11), (30, 99), (7, 7)}
    assert min(counts.values()) > 2000 / 3 * 0.85
    assert made.rate == pytest.approx(5.0, rel=0.01)
    assert made.described == "synthetic requests with lengths of t.csv"
    first = requests(lengths_of=trace, limit=1).arrivals
    assert {(one.num_prompt_tokens, one.num_output_tokens) for one in first} == {(400, 11)}


def test_prompts_are_longer_by_the_prefix_that_their_group_shares() -> None:
    plain, made = requests(), requests(shared_prefix=50, prefix_groups=4)
    assert (
        made.described
        == "synthetic requests of 512 + 128 tokens on average after one of 4 shared prefixes of 50 tokens"
    )
    assert [one.num_prompt_tokens for one in made.arrivals] == [one.num_prompt_tokens + 50 for one in plain.arrivals]
    groups = Counter(one.block_hashes for one in made.arrivals)
    assert (len(groups), {len(names) for names in groups}) == (4, {3})  # whole blocks of 16
    assert len({name for names in groups for name in names}) == 12
    assert min(groups.values()) > 2000 / 4 * 0.85


def test_a_trial_that_plays_requests_twice_shares_the_prefix_alone() -> None:
    made = requests(num_synthetic=10, shared_prefix=64)
    played = SampledWorkload(made.arrivals).arrivals(rate=5.0, num_requests=40, seed=0)
    assert {len(one.block_hashes) for one in played} == {4}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(PROFILE.to_text())
    return path


def test_a_simulated_cluster_finds_shared_prefixes_cached_unless_its_cache_is_off(
    profile: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.json"
    words = ["--profile", profile, "--rate", "5", "--num-requests", "60", "--input-len", "100", "--output-len", "5"]
    words += ["--shared-prefix", "512", "--prefix-groups", "2", "--out", out]
    found = []
    for more in ([], ["--set", "engine.prefix_cache=false"]):
        ended = typed("simulate", *words, *more)
        assert ended.code == 0, ended
        found.append(json.loads(out.read_text()))
    cached, uncached = found
    assert cached["load"]["shared_prefix"] == 512
    num_cached = [record["num_cached_tokens"] for record in cached["records"]]
    assert num_cached.count(512) > 50
    assert max(num_cached) == 512
    assert not any(record["num_cached_tokens"] for record in uncached["records"])
    assert cached["ttft_ms"]["p50"] < 0.5 * uncached["ttft_ms"]["p50"]


def test_made_up_requests_that_are_too_long_are_cut_and_told(profile: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.csv", [(0.0, 3000, 5), (1.0, 10, 5)])
    ended = typed("simulate", "--profile", profile, "--rate", "9", "--num-requests", "20", "--lengths-of", trace)
    assert ended.code == 0, ended
    assert "of 20 requests were cut to the context of 2048 tokens" in ended.out


@pytest.mark.slow
def test_one_device_is_planned_co_located_where_kv_cannot_leave_a_node(profile: Path) -> None:
    ended = typed("plan", "--model", "demo", "--profile", profile, "--gpus-per-node", "1", "--jobs", "1", "--rate", "2")
    assert ended.code == 0, ended
    assert "Co-located is the only kind that was looked at" in ended.out


@pytest.mark.slow
def test_a_plan_says_of_which_requests_it_is(profile: Path) -> None:
    words = ("--model", "demo", "--profile", profile, "--gpus-per-node", "1", "--jobs", "1", "--rate", "2")
    ended = typed("plan", *words, "--mix", "1:100:5", "--mix", "1:400:20", "--shared-prefix", "64")
    assert ended.code == 0, ended
    told = "synthetic requests of 50 % 100 + 5, 50 % 400 + 20 tokens on average after a shared prefix of 64 tokens"
    assert told in ended.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--mix 0.7:300:80", "--mix 0.7:300:80 is one kind of requests, a mix has two or more; give --mix 0.7:300:80 "),
        ("--mix 0.7:300 --mix 1:2:3", "--mix 0.7:300 is not SHARE:INPUT:OUTPUT; give for example --mix 0.7:300:80"),
        ("--mix a:3:8 --mix 1:2:3", "--mix a:3:8 is not SHARE:INPUT:OUTPUT"),
        ("--mix 1:3.5:8 --mix 1:2:3", "--mix 1:3.5:8 is not SHARE:INPUT:OUTPUT"),
        ("--mix 1:2:3 --mix 0:3:8", "--mix 0:3:8: share 0 must be above 0 and at most 1,000,000"),
        ("--mix 1:2:3 --mix nan:3:8", "--mix nan:3:8: share nan must be above 0"),
        ("--mix 1:2:3 --mix 1:0:8", "--mix 1:0:8: INPUT 0 must be 1 token or more"),
        ("--mix 1:2:3 --mix 1:8:-1", "--mix 1:8:-1: OUTPUT -1 must be 1 token or more"),
        ("--mix 1:2:3 --mix 1:8:9 --input-len 9", "--input-len 9: --mix has its own lengths; leave one of them out"),
        ("--mix 1:2:3 --mix 1:8:9 --lengths-of t.csv", "--mix 1:2:3 --mix 1:8:9: --lengths-of has its own lengths"),
        ("--mix 1:2:3 --mix 1:8:9 --trace t.csv", "--mix 1:2:3 --mix 1:8:9: it is for synthetic requests, --trace has"),
        ("--lengths-of t.csv --output-len 9", "--output-len 9: --lengths-of has its own lengths"),
        ("--lengths-of t.csv --trace t.csv", "--lengths-of t.csv: it is for synthetic requests, --trace has its own"),
        ("--lengths-of t.csv --clip", "--clip is about --trace"),
        ("--lengths-of t.csv", "--lengths-of t.csv cannot be read: No such file"),
        ("--lengths-of t.gz", "--lengths-of t.gz: unknown kind '.gz'"),
        ("--lengths-of t.csv --out t.csv", "--out t.csv would write over --lengths-of t.csv"),
        ("--shared-prefix 0", "--shared-prefix 0 must be 1 or more"),
        ("--shared-prefix 15", "--shared-prefix 15 fills no block of 16 tokens, and whole blocks are shared; give 16"),
        ("--shared-prefix 2048", "--shared-prefix 2048 leaves no room in a context of 2048 tokens; give fewer"),
        ("--shared-prefix 64 --trace t.csv", "--shared-prefix 64: it is for synthetic requests"),
        ("--prefix-groups 4", "--prefix-groups 4 is about --shared-prefix; give it too, or leave both out"),
        ("--prefix-groups 4 --trace t.csv", "--prefix-groups 4: it is for synthetic requests"),
        ("--shared-prefix 64 --prefix-groups 0", "--prefix-groups 0 must be 1 or more"),
        ("--shared-prefix 64 --prefix-groups 5000", "--prefix-groups 5000: "),
    ],
)
def test_what_cannot_be_made_up_is_refused_by_both_commands(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--profile", profile, "--rate", "3", *words.split())
    assert named in refusal("simulate", *given)
    assert named in refusal("plan", "--model", "demo", "--gpus-per-node", "2", *given)


def test_a_fault_in_a_trace_of_lengths_is_named_by_its_flag_and_line(profile: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.csv", [(0.0, 400, 0)])
    said = refusal("simulate", "--profile", profile, "--rate", "3", "--lengths-of", trace)
    assert f"--lengths-of {trace}:2: GeneratedTokens '0' must be a whole number of tokens" in said
