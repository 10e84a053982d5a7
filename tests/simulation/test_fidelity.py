"""The simulator beside the published runs of real systems, and what `bench.planner_fidelity` makes of bad input."""

from dataclasses import replace
from pathlib import Path

import pytest

from baton.errors import ConfigError
from bench.fidelity.calibrate import fit
from bench.fidelity.compare import mean_attainment_error
from bench.fidelity.distserve_replay import replay
from bench.fidelity.distserve_runs import RUNS, find_folder, read_runs
from bench.fidelity.distserve_systems import CONSTANTS, FITTED_RUNS, Published
from bench.fidelity.own_cluster import OwnComparison

FOLDER = find_folder(None)
needs_runs = pytest.mark.skipif(FOLDER is None, reason="no distserve_ground_truth beside the checkout or in BATON_DATA")
ROW = {"prompt_len": 5, "output_len": 3, "issue_time": 7.0, "ttft_ms": 10.0, "tpot_ms": 4.0}


@needs_runs
@pytest.mark.parametrize("name", ["distserve-c21d11-300-6", "distserve-c21d11-300-7.5"])
def test_a_disaggregated_run_below_saturation_is_met_within_ten_percent(name: str) -> None:
    assert FOLDER is not None
    run = next(run for run in read_runs(FOLDER) if run.name == name)
    comparison = replay(run, Published.read(FOLDER), CONSTANTS["distserve"])
    assert max(map(abs, comparison.errors)) < 0.10
    assert abs(comparison.attainment_error) < 5


@needs_runs
@pytest.mark.slow
@pytest.mark.parametrize(("system", "max_points"), [("distserve", 3.0), ("vllm", 5.0)])
@pytest.mark.parametrize("which", ["all", "held out"])
def test_attainment_of_the_published_runs_is_predicted_within_the_bar(
    system: str, max_points: float, which: str
) -> None:
    assert FOLDER is not None
    published = Published.read(FOLDER)
    runs = [run for run in read_runs(FOLDER) if run.system == system]
    some = [run for run in runs if which == "all" or run.name not in FITTED_RUNS]
    assert mean_attainment_error([replay(run, published, CONSTANTS[system]) for run in some]) <= max_points


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
