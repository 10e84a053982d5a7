"""What the autopilot knows before it has seen a step; and what of it cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest

from baton.errors import ConfigError
from baton.v1.worker_pb2 import WorkerState
from cluster.config.load import loads
from cluster.config.schema import BatonConfig, KVConfig
from cluster.fleet.known_costs import base_cluster, known_costs, roles_change
from tests.unit.commands.simulate.test_command import PROFILE
from workers.spec import Role


def config(planner: str = "", pools: str = "prefill: {workers: 1}, decode: {workers: 1}") -> BatonConfig:
    return loads(f"model: meta-llama/Llama-3.1-8B\npools: {{{pools}}}\nplanner: {{{planner}}}")


def test_without_a_profile_costs_are_those_that_will_be_seen() -> None:
    costs = known_costs(config())
    assert costs.latency == {}
    assert "seen" in costs.source


def test_a_data_sheet_gives_costs_of_each_role() -> None:
    costs = known_costs(config("hardware: h100"))
    assert set(costs.latency) == {Role.PREFILL, Role.DECODE}
    assert costs.latency[Role.DECODE].step_s((), 8, 8000) > 0
    assert "H100" in costs.source.upper()


def test_keys_and_values_in_fp8_are_half_the_bytes() -> None:
    plain, small = (known_costs(replace(config("hardware: h100"), kv=KVConfig(dtype=one))) for one in ("auto", "fp8"))
    assert small.token_bytes * 2 == plain.token_bytes > 0
    decodes = [costs.latency[Role.DECODE].step_s((), 64, 640_000) for costs in (plain, small)]
    assert 0.4 < decodes[1] / decodes[0] < 0.8, "most of what is read are keys and values"


def test_keys_and_values_in_fp8_need_a_device_or_profile_that_has_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"planner\.hardware: a100-80g: kv\.dtype: fp8: a100-80g has no FP8, h100"):
        known_costs(replace(config("hardware: a100-80g"), kv=KVConfig(dtype="fp8")))
    path = tmp_path / "p.json"
    path.write_text(replace(PROFILE, model=config().model).to_text())
    assert known_costs(config(f"profile: {path}")).token_bytes == PROFILE.token_bytes
    with pytest.raises(ConfigError, match=r"kv\.dtype: fp8 in the config, the profile is of auto; run `baton profile`"):
        known_costs(replace(config(f"profile: {path}"), kv=KVConfig(dtype="fp8")))


@pytest.mark.parametrize(
    ("planner", "says"),
    [
        ("hardware: abacus", "planner.hardware: abacus"),
        ("profile: /nowhere/p.json", "planner.profile: /nowhere/p.json cannot be read"),
    ],
)
def test_what_is_not_there_is_refused_by_name(planner: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        known_costs(config(planner))
    assert says in error.value.message


def test_a_profile_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"planner\.profile: .*run `baton profile`"):
        known_costs(config(f"profile: {path}"))


def test_the_fleet_is_simulated_as_its_workers_say() -> None:
    told, costs = config(), known_costs(config())
    assert base_cluster(told, costs, [WorkerState()]) is None
    base = base_cluster(told, costs, [WorkerState(num_blocks=77, max_model_len=999)])
    assert base is not None
    assert {pool.num_blocks for pool in base.pools} == {77}
    assert base.max_model_len == 999


@pytest.mark.parametrize(
    ("pools", "do"),
    [
        ("prefill: {workers: 1}, decode: {workers: 1}", True),
        ("prefill: {workers: 1, tensor_parallel: 2}, decode: {workers: 1}", False),
        ("prefill: {workers: 1, sequence_parallel: 2}, decode: {workers: 1}", False),
    ],
)
def test_workers_go_over_only_where_they_cost_there_what_others_do(pools: str, do: bool) -> None:
    assert roles_change(config(pools=pools)) is do


@pytest.mark.parametrize("written", ["off", "'off'", "'advise'", "act"])
def test_a_mode_may_be_written_bare(written: str) -> None:
    assert config(f"mode: {written}").planner.mode == written.strip("'")
