"""Profiles: what is fitted comes back, survives its file, and each fault of a file is named."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from baton.errors import ConfigError
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import PromptChunk
from cluster.planner.costs.fitted import FittedLatency, Profile
from cluster.planner.costs.fitting import fit_errors, fit_steps, fit_transfer, nonnegative_least_squares
from cluster.planner.costs.transfer import Path

TRUE = FittedLatency(
    base_s=2e-3,
    prompt_s=0.0,
    decode_s=1e-3,
    knots=(0, 8, 32, 128, 512),
    slopes_s=(3e-5, 5e-5, 2e-5, 1e-5, 1.2e-5),
    chunk_s=2e-4,
    pair_s=3e-9,
    read_s=1e-7,
    sequence_s=2e-5,
    context_s=4e-8,
)


@dataclass(frozen=True)
class Measured:
    prompts: tuple[tuple[int, int], ...]
    num_decodes: int
    num_context: int
    step_s: float
    num_samples: int = 3


@dataclass(frozen=True)
class Moved:
    num_bytes: int
    transfer_s: float


def measured(noise: float = 0.0) -> list[Measured]:
    rng = np.random.default_rng(3)
    asked: list[tuple[tuple[tuple[int, int], ...], int, int]] = []
    for num_tokens in (4, 16, 64, 256, 1024, 2000):
        asked += [(((num_tokens, num_before),), 0, 0) for num_before in (0, 100, 1000)]
        asked += [(((num_tokens, 0),), batch, 100 * batch) for batch in (1, 8, 64)]
        asked.append((((num_tokens, 0),) * 3, 0, 0))
    asked += [((), batch, batch * context) for batch in (1, 4, 16, 64, 256) for context in (10, 300, 2000)]
    return [
        Measured(*one, step_s=TRUE.step_s([PromptChunk(*chunk) for chunk in one[0]], *one[1:]) * rng.normal(1, noise))
        for one in asked
    ]


def test_a_fit_finds_what_made_its_points() -> None:
    errors = fit_errors(fit_steps(measured()), measured())
    assert set(errors) == {"decode", "mixed", "prefill"}
    assert sum(error.num_points for error in errors.values()) == len(measured())
    assert max(error.p90 for error in errors.values()) < 1e-6


def test_a_fit_of_noisy_points_is_nearer_to_the_truth_than_they_are() -> None:
    latency = fit_steps(measured(noise=0.05))
    errors = fit_errors(latency, measured())
    assert max(error.median for error in errors.values()) < 0.03


def test_a_fit_withstands_points_that_something_else_delayed() -> None:
    points = [replace(one, step_s=one.step_s * 3) if i % 10 == 0 else one for i, one in enumerate(measured())]
    errors = fit_errors(fit_steps(points), measured())
    assert max(error.median for error in errors.values()) < 0.02


def test_points_of_many_samples_count_for_more() -> None:
    seldom = [replace(one, step_s=one.step_s * 1.2, num_samples=1) for one in measured()]
    often = [replace(one, num_samples=100) for one in measured()]
    errors = fit_errors(fit_steps([*seldom, *often]), often)
    assert max(error.median for error in errors.values()) < 0.05


@given(seed=st.integers(0, 1000), tokens=st.integers(1, 5000), before=st.integers(0, 5000), batch=st.integers(0, 400))
def test_a_fit_of_anything_grows_with_the_work_and_sums_up(seed: int, tokens: int, before: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    points = [
        Measured(one.prompts, one.num_decodes, one.num_context, one.step_s * rng.uniform(0.2, 5)) for one in measured()
    ]
    latency = fit_steps(points)
    step_s = latency.step_s((PromptChunk(tokens, before),), batch, 100 * batch)
    assert 0 <= step_s <= latency.step_s((PromptChunk(tokens + 1, before),), batch, 100 * batch)
    assert step_s <= latency.step_s((PromptChunk(tokens, before + 1),), batch, 100 * batch + 1)
    each = [latency.step_s((), batch, 100 * batch + step * batch) for step in range(7)]
    assert latency.decode_steps_s(batch, 100 * batch, 7) == pytest.approx(sum(each))


@given(
    rows=arrays(float, (12, 5), elements=st.floats(-10, 10, width=32)),
    target=arrays(float, 12, elements=st.floats(-10, 10, width=32)),
)
def test_no_step_from_the_solution_improves_it(rows: Any, target: Any) -> None:
    found = nonnegative_least_squares(rows, target)
    assert (found >= 0).all()
    best = np.linalg.norm(rows @ found - target)
    for column in range(rows.shape[1]):
        for step in (1e-3, -1e-3):
            moved = found.copy()
            moved[column] = max(0.0, moved[column] + step)
            assert best <= np.linalg.norm(rows @ moved - target) + 1e-6


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="15 with decodes are too few"):
        fit_steps([point for point in measured() if not point.prompts])
    with pytest.raises(ConfigError, match="a step of 0 s cannot be"):
        fit_steps([*measured(), Measured((), 1, 1, 0.0)])


def test_a_transfer_fit_finds_latency_and_bandwidth() -> None:
    path = fit_transfer([Moved(size, 2e-3 + size / 5e9) for size in (10**5, 10**6, 10**8)])
    assert path.latency_s == pytest.approx(2e-3)
    assert path.bandwidth == pytest.approx(5e9)
    with pytest.raises(ConfigError, match=r"\[5\] bytes are too few"):
        fit_transfer([Moved(5, 1.0), Moved(5, 2.0)])
    with pytest.raises(ConfigError, match="900 bytes took no longer than 5"):
        fit_transfer([Moved(5, 1.0), Moved(900, 0.5)])


PROFILE = Profile(
    model="demo",
    fingerprint="abc",
    dtype="bfloat16",
    machine="2 cores of an AMD EPYC",
    token_bytes=3072,
    num_layers=8,
    max_model_len=2048,
    latencies={"1": TRUE},
    transfers={"shm": Path(bandwidth=3e9, latency_s=1e-3)},
    drafts={"demo-draft": TRUE},
    acceptance={"demo-draft": DraftChances((0.75, 0.5))},
    errors=fit_errors(TRUE, measured()),
    to_worker_s=1e-3,
)


def test_a_profile_survives_its_file() -> None:
    assert Profile.from_text(PROFILE.to_text()) == PROFILE


def test_a_profile_from_before_drafts_were_measured_is_read() -> None:
    tree = PROFILE.to_dict()
    del tree["acceptance"]
    assert Profile.from_dict(tree) == replace(PROFILE, acceptance={})


def test_what_comes_of_drafts_is_as_told_or_as_measured() -> None:
    assert PROFILE.draft_chances("demo-draft", None, asked="--draft demo-draft") == DraftChances((0.75, 0.5))
    assert PROFILE.draft_chances("demo-draft", DraftChances((0.1,)), asked="") == DraftChances((0.1,))
    with pytest.raises(
        ConfigError, match="--draft other: the profile holds draft models demo-draft; run `baton profile`"
    ):
        PROFILE.draft_chances("other", DraftChances((0.1,)), asked="--draft other")


def test_a_profile_of_another_model_is_refused() -> None:
    PROFILE.check_model("demo", fingerprint="abc")
    with pytest.raises(ConfigError, match=r"of model 'demo', not 'other'; run `baton profile --model other`"):
        PROFILE.check_model("other")
    with pytest.raises(ConfigError, match="fingerprint of demo is abc, the weights here have xyz"):
        PROFILE.check_model("demo", fingerprint="xyz")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 1, r"p\.json: version 1; this baton reads version 3; run `baton profile` again"),
        (("model",), None, "model None must be a text"),
        (("acceptance", "demo-draft"), 0.5, r"acceptance\.demo-draft 0\.5 must be a list of numbers"),
        (("acceptance", "demo-draft"), [2.0], r"acceptance 2 must be in \[0, 1\]"),
        (("token_bytes",), -1, "token_bytes -1 must be a number, 0 or more"),
        (("token_bytes",), True, "token_bytes True must be"),
        (("start_s",), float("nan"), "start_s nan must be"),
        (("latencies",), {}, "latencies is empty"),
        (("latencies",), [], r"latencies \[\] must map"),
        (("latencies", "1"), 5, r"latencies\.1 must be a mapping"),
        (("latencies", "1", "pair_s"), "fast", r"latencies\.1\.pair_s 'fast' must be a number"),
        (("latencies", "1", "knots"), [0, 8, 4, 128, 512], r"latencies\.1\.knots .* must rise from 0, one per slope"),
        (("latencies", "1", "knots"), [0], "one per slope"),
        (("latencies", "1", "slopes_s"), 7, r"slopes_s 7 must be a list"),
        (("transfers", "shm", "bandwidth"), 0, "bandwidth 0 must be above 0"),
        (("transfers", "shm"), {}, r"transfers\.shm lacks bandwidth"),
        (("errors", "decode", "p90"), None, r"errors\.decode\.p90 None"),
        (("extra",), 1, r"p\.json: extra is unknown"),
        (("latencies", "1", "base_s"), 1e9, r"latencies\.1\.base_s 1000000000\.0 must be 600 or less"),
        (("latencies", "1", "slopes_s"), [1e300] * 5, r"slopes_s 1e\+300 must be 600 or less"),
        (("contention", "prompts"), 1e3, r"contention\.prompts 1000 must be 100 or less"),
        (("contention", "workers_per_machine"), 0, r"workers_per_machine 0 must be from 1 to 4096"),
    ],
)
def test_a_broken_profile_is_named(path: tuple[str, ...], value: object, message: str) -> None:
    tree = json.loads(PROFILE.to_text())
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        Profile.from_dict(tree, "p.json")


def test_a_profile_that_lacks_a_field_or_is_no_json_is_named() -> None:
    tree = json.loads(PROFILE.to_text())
    del tree["dtype"]
    with pytest.raises(ConfigError, match="lacks dtype; run `baton profile` again"):
        Profile.from_dict(tree)
    for text in ("", "[", "[" * 100_000):
        with pytest.raises(ConfigError, match=r"p\.json is not JSON"):
            Profile.from_text(text, "p.json")
    with pytest.raises(ConfigError, match="must be a mapping"):
        Profile.from_text("[]", "p.json")
