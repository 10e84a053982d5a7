"""The simulator beside the published runs of real systems, and what `bench.planner_fidelity` makes of bad input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton.errors import ConfigError
from bench.fidelity.calibrate import fit
from bench.fidelity.compare import MAX_LOG_ERROR, compare, mean_attainment_error
from bench.fidelity.distserve_replay import replay, runs_of
from bench.fidelity.distserve_runs import RUNS, DistserveRun, find_folder, read_runs
from bench.fidelity.distserve_systems import CONSTANTS, FITTED_RUNS, Published
from bench.fidelity.own_cluster import OwnComparison
from bench.fidelity.robustness import neighbourhood
from bench.fidelity.vllm_server import prompt_pace_ms, server
from cluster.contracts.latency import Parallelism
from cluster.contracts.simulation import Arrival

FOLDER = find_folder(None)
needs_runs = pytest.mark.skipif(FOLDER is None, reason="no distserve_ground_truth beside the checkout or in BATON_DATA")
ROW = {"prompt_len": 5, "output_len": 3, "issue_time": 7.0, "ttft_ms": 10.0, "tpot_ms": 4.0}


@needs_runs
@pytest.mark.parametrize("name", ["distserve-c21d11-300-6", "distserve-c21d11-300-7.5", "distserve-c21d12-600-6"])
def test_a_disaggregated_run_below_saturation_is_met_within_ten_percent(name: str) -> None:
    assert FOLDER is not None
    run = next((run for run in read_runs(FOLDER) if run.name == name), None)
    if run is None:
        pytest.skip(f"{name} is not in {FOLDER}")
    comparison = replay(run, Published.read(FOLDER), CONSTANTS["distserve"])
    assert max(map(abs, comparison.errors)) < 0.10
    assert abs(comparison.attainment_error) < 5


@needs_runs
@pytest.mark.parametrize("name", ["vllm-100-1", "vllm-200-2"])
def test_a_co_located_run_below_saturation_is_met_within_ten_percent_by_its_server_s_constants(name: str) -> None:
    assert FOLDER is not None
    run = next(run for run in read_runs(FOLDER) if run.name == name)
    comparison = replay(run, Published.read(FOLDER), CONSTANTS[server(run)])
    assert max(map(abs, comparison.errors)) < 0.10
    assert abs(comparison.attainment_error) < 5


@needs_runs
@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "max_points"), [("distserve", 3.0), ("vllm", 5.0), ("vllm-early", 5.0), ("vllm-late", 5.0)]
)
@pytest.mark.parametrize("which", ["all", "held out"])
def test_attainment_of_the_published_runs_is_predicted_within_the_bar(key: str, max_points: float, which: str) -> None:
    assert FOLDER is not None
    published = Published.read(FOLDER)
    runs = [run for run in runs_of(key, read_runs(FOLDER)) if which == "all" or run.name not in FITTED_RUNS]
    assert mean_attainment_error([replay(run, published, CONSTANTS[key]) for run in runs]) <= max_points


@needs_runs
@pytest.mark.slow
@pytest.mark.parametrize(("key", "max_points"), [("distserve", 3.0), ("vllm", 5.5), ("vllm-early", 5.0)])
def test_no_digit_of_the_constants_decides(key: str, max_points: float) -> None:
    assert FOLDER is not None
    runs = runs_of(key, read_runs(FOLDER))
    errors = neighbourhood(runs, Published.read(FOLDER), CONSTANTS[key], num_draws=4, seed=1)
    assert sum(errors) / len(errors) <= max_points


@needs_runs
def test_vllm_s_early_server_kept_padding_within_256_tokens_and_the_late_one_did_not() -> None:
    assert FOLDER is not None
    runs = {run.name: run for run in read_runs(FOLDER)}
    early, late = ("vllm-100-1", "vllm-300-3", "vllm-400-4"), ("vllm-100-2", "vllm-200-2")
    assert [server(runs[name]) for name in early + late] == ["vllm-early"] * 3 + ["vllm-late"] * 2
    early_paddings, late_paddings = (
        [padding for name in names for padding in _paddings(runs[name])] for names in (early, late)
    )
    assert (len(early_paddings), max(early_paddings) <= 256) == (66, True)
    assert (len(late_paddings), sum(padding > 256 for padding in late_paddings)) == (21, 13)


def _paddings(run: DistserveRun) -> list[int]:
    """Of each batch of prompts: those whose first tokens came within 2 ms of each other."""
    first_ms = sorted(
        (arrival.at_s * 1e3 + ttft_ms, arrival.num_prompt_tokens)
        for arrival, ttft_ms in zip(run.arrivals, run.ttft_ms, strict=True)
    )
    batches, last_ms = [[first_ms[0][1]]], first_ms[0][0]
    for at_ms, num_tokens in first_ms[1:]:
        if at_ms - last_ms < 2:
            batches[-1].append(num_tokens)
        else:
            batches.append([num_tokens])
        last_ms = at_ms
    return [len(batch) * max(batch) - sum(batch) for batch in batches if len(batch) > 1]


@needs_runs
@pytest.mark.slow
def test_decode_workers_of_two_stages_attain_more_than_of_one_and_less_at_higher_rates() -> None:
    assert FOLDER is not None
    published = Published.read(FOLDER)
    run = next(run for run in read_runs(FOLDER) if run.name == "distserve-c21d11-750-7.5")
    found = {}
    for speed_up in (1.0, 1.4, 1.8):
        for stages in (1, 2):
            arrivals = tuple(replace(arrival, at_s=arrival.at_s / speed_up) for arrival in run.arrivals)
            faster = replace(run, arrivals=arrivals, decode=Parallelism(pipeline=stages))
            found[stages, speed_up] = replay(faster, published, CONSTANTS["distserve"]).predicted
    for stages in (1, 2):
        attained = [found[stages, speed_up].attainment for speed_up in (1.0, 1.4, 1.8)]
        assert attained == sorted(attained, reverse=True)
    for speed_up in (1.0, 1.4):  # beyond, both are far past saturation
        assert found[2, speed_up].attainment > found[1, speed_up].attainment
    for speed_up in (1.0, 1.4, 1.8):
        assert found[2, speed_up].tpot_p90 < found[1, speed_up].tpot_p90


def test_a_request_far_off_or_at_its_limit_moves_what_is_fitted_only_so_far() -> None:
    tpot_ms = np.array([50.0, 50.0])
    measured = (np.array([199.0, 100.0]), tpot_ms)
    near = (np.array([201.0, 100.0]), tpot_ms)
    far = (np.array([90_000.0, 100.0]), tpot_ms)
    flipped, lost = (
        compare("x", fitted=True, measured=measured, predicted=predicted, limits_ms=(200.0, 100.0))
        for predicted in (near, far)
    )
    assert flipped.attainment_error == -50
    assert -5 < flipped.soft_error < 0
    assert lost.request_error == pytest.approx(MAX_LOG_ERROR / 4)


@pytest.mark.parametrize(("pace_ms", "name"), [(0.127, "vllm-early"), (0.141, "vllm-late")])
def test_a_server_is_known_by_its_pace_however_long_prompts_wait(pace_ms: float, name: str) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 2000, 300)
    waits_ms = rng.exponential(100.0, 300) * (rng.random(300) < 0.7)
    run = DistserveRun(
        name="vllm-300-2",
        rate=2.0,
        started_s=0.0,
        prefill=Parallelism(),
        decode=None,
        arrivals=tuple(Arrival(at_s=0.0, num_prompt_tokens=int(n), num_output_tokens=2) for n in lengths),
        ttft_ms=25 + pace_ms * lengths + waits_ms,
        tpot_ms=np.zeros(300),
    )
    assert prompt_pace_ms(run) == pytest.approx(pace_ms, abs=0.002)
    assert server(run) == name


def test_a_run_names_its_placement_and_comes_in_order_of_arrival(tmp_path: Path) -> None:
    (tmp_path / RUNS).mkdir()
    late = {**ROW, "issue_time": 9.0, "prompt_len": 6, "ttft_ms": 20.0}
    (tmp_path / RUNS / "distserve-c21d12-2-4.5.exp").write_text(f"{[late, ROW]}\n{{ summary }}\n")
    (tmp_path / RUNS / "distserve-2-4.5.exp").write_text("not read: names no placement")
    (run,) = read_runs(tmp_path)
    assert (run.prefill.tensor, run.decode.tensor if run.decode else 0) == (2, 1)
    assert run.decode is not None
    assert run.decode.pipeline == 2
    assert [(arrival.at_s, arrival.num_prompt_tokens) for arrival in run.arrivals] == [(0.0, 5), (2.0, 6)]
    assert run.ttft_ms.tolist() == [10.0, 20.0]
    assert run.started_s == 7.0


def test_runs_of_other_placements_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    for folder, name in ((RUNS, "vllm-1-1"), ("extra_c14d12", "distserve-c14d12-1-2"), ("workload", "vllm-1-3")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.exp").write_text(f"{[ROW]}\n")
    assert [run.name for run in read_runs(tmp_path)] == ["vllm-1-1", "distserve-c14d12-1-2"]


def test_a_run_without_its_fields_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / RUNS).mkdir()
    (tmp_path / RUNS / "vllm-1-1.exp").write_text("[{'prompt_len': 5}]")
    with pytest.raises(ConfigError, match=r"vllm-1-1\.exp: line 1 is not a list of requests"):
        read_runs(tmp_path)


def test_a_data_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name the folder that SOURCE\.md lies in"):
        find_folder(tmp_path)


def test_the_fit_finds_constants_that_lower_the_loss() -> None:
    start = replace(CONSTANTS["vllm"], prefill_scale=1.5, sequence_s=0.0)
    found, loss = fit(
        start,
        ("prefill_scale", "sequence_s"),
        lambda constants: abs(constants.prefill_scale - 0.9) + abs(constants.sequence_s - 4e-4) / 1e-3,
    )
    assert found.prefill_scale == pytest.approx(0.9, abs=0.01)
    assert found.sequence_s == pytest.approx(4e-4, abs=2e-5)
    assert loss < 0.03


def test_errors_may_be_twice_the_spread_of_repeated_real_runs() -> None:
    comparison = OwnComparison(
        name="x",
        load=0.5,
        simulated=((118.0, 118.0, 118.0, 100.0),),
        measured=((95.0, 100.0, 100.0, 100.0), (105.0, 100.0, 100.0, 100.0), (100.0, 100.0, 100.0, 100.0)),
    )
    assert comparison.allowed == pytest.approx((0.2, 0.15, 0.1, 0.15))
    assert comparison.misses == ["TTFT P90 +18%", "TPOT P50 +18%"]
