"""Every option that `baton plan` and `baton simulate` take, alone and beside every other, changes what is asked, or is
refused by name: none is accepted and ignored."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from baton.errors import ConfigError
from cluster.commands.cost_options import CostOptions
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.plan.inputs import Asked
from cluster.commands.plan.inputs import read_inputs as read_plan
from cluster.commands.plan.options import MachineOptions, SearchOptions, SLOOptions
from cluster.commands.simulate.inputs import read_inputs as read_simulation
from cluster.commands.simulate.options import RunOptions
from cluster.config.schema import BatonConfig
from tests.unit.commands.simulate.test_command import PROFILE, write_trace

Values = Mapping[str, Any]

COSTS: Mapping[str, Values] = {"hardware": {"hardware": "epyc-2c"}, "profile": {"profile": Path("profile.json")}}
LOADS: Mapping[str, Values] = {
    "trace": {"trace": Path("t.csv")},
    "synthetic": {"rate": 3.0},
    "mix": {"rate": 3.0, "mix": ["2:80:5", "1:200:9"], "shared_prefix": 32},
    "lengths": {"rate": 3.0, "lengths_of": Path("t.csv"), "shared_prefix": 32, "prefix_groups": 2},
}
QUICK_LOADS = ("trace", "lengths")
SOME_LOADS = [name if name in QUICK_LOADS else pytest.param(name, marks=pytest.mark.slow) for name in LOADS]
LOAD_OPTIONS: Values = {
    "limit": 2,
    "clip": True,
    "rate": 7.0,
    "input_len": 99,
    "output_len": 9,
    "mix": ["0.7:300:80", "0.3:900:20"],
    "lengths_of": Path("lengths.csv"),
    "shared_prefix": 64,
    "prefix_groups": 3,
    "gap_cv": 2.0,
}
PLAN_OPTIONS: Values = {
    **LOAD_OPTIONS,
    "nodes": 3,
    "gpus_per_node": 5,
    "kv_memory": "64MiB",
    "kv_dtype": "fp8",
    "price": 2.0,
    "slo_ttft": 900.0,
    "slo_tpot": 90.0,
    "attainment": 0.8,
    "allow_pp": True,
    "hypothetical": True,
    "draft": "demo-draft",
    "draft_acceptance": "0.7",
    "seed": 5,
}
SIMULATE_OPTIONS: Values = {
    **LOAD_OPTIONS,
    "num_requests": 7,
    "faults": "kill_decode@1s",
    "autopilot": True,
    "draft_acceptance": "0.7",
    "seed": 5,
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile, and traces of which no request is too long."""
    monkeypatch.chdir(tmp_path)
    Path("profile.json").write_text(replace(PROFILE, transfers={"gloo": PROFILE.transfers["auto"]}).to_text())
    write_trace(Path("t.csv"), [(0.0, 100, 5), (2.0, 200, 5), (4.0, 300, 5)])
    write_trace(Path("lengths.csv"), [(0.0, 50, 7), (1.0, 150, 7), (2.0, 250, 7)])


def of(group: Any, given: Values) -> Any:
    return group(**{each.name: given[each.name] for each in fields(group) if each.name in given})


def plan(given: Values) -> bytes:
    groups = (CostOptions, MachineOptions, ArrivalOptions, SLOOptions, SearchOptions)
    costs, machines, load, slo, search = (of(group, given) for group in groups)
    read = read_plan(Asked(model="demo", costs=costs, machines=machines, load=load, slo=slo, search=search))
    return pickle.dumps(read)


def simulation(given: Values) -> bytes:
    config = BatonConfig(kv=replace(BatonConfig().kv, transport="gloo"))
    run = of(RunOptions, given)
    read = read_simulation(config, of(CostOptions, given), of(ArrivalOptions, given), run)
    return pickle.dumps((replace(read, about={}), run.seed))


def told(read: Callable[[Values], bytes], given: Values) -> bytes | str:
    try:
        return read(given)
    except ConfigError as error:
        return error.message


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("load", SOME_LOADS)
@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize(("read", "options"), [(plan, PLAN_OPTIONS), (simulation, SIMULATE_OPTIONS)])
def test_every_option_beside_every_other_changes_what_is_asked_or_is_refused(
    read: Callable[[Values], bytes], options: Values, costs: str, load: str
) -> None:
    base = {**COSTS[costs], **LOADS[load]}
    if read is plan:
        base |= {"gpus_per_node": 2}
    if load == "trace":  # it cuts only what is too long: tested for itself
        options = {name: value for name, value in options.items() if name != "clip"}
    without = told(read, base)
    alone = {name: told(read, {**base, name: value}) for name, value in options.items()}
    ignored = [name for name, outcome in alone.items() if outcome == without]
    for first, second in combinations(options, 2):
        both = told(read, {**base, first: options[first], second: options[second]})
        if isinstance(both, str):
            assert any(name.replace("_", "-") in both for name in (first, second)), f"{first}, {second}: {both}"
            continue
        ignored += [
            f"{one} beside {other}" for one, other in ((first, second), (second, first)) if both == alone[other]
        ]
    assert ignored == []
