"""What of a config makes workers outdated, by a hash that is part of their names."""

from dataclasses import replace

import pytest

from cluster.config.effects import EFFECTS, Effect, effect_of
from cluster.config.load import flatten, loads
from cluster.config.schema import BatonConfig, KVConfig
from cluster.fleet.generation import Generation, model_key
from cluster.fleet.plan import FleetPlan
from workers.spec import Role

BASE = "model: demo\npools: {prefill: {workers: 1}, decode: {workers: 2}}\n"


def plan(text: str = "", base: str = BASE) -> FleetPlan:
    return FleetPlan(config=replace(loads(base + text), dtype="float32", device="cpu"), model_path="/m")


def of(made: FleetPlan, role: Role = Role.DECODE, index: int = 0) -> Generation:
    return Generation.of(made, role, index)


def test_it_is_read_from_the_name_that_it_makes() -> None:
    generation = of(plan())
    name = generation.incarnation()
    assert Generation.in_name(name) == generation
    assert name != generation.incarnation(), "two lives of one worker"
    assert name.isalnum(), "it is part of an actor's name, whose other parts are cut at - and ."


@pytest.mark.parametrize(
    "text",
    [
        "engine: {max_batched_tokens: 256}",
        "kv: {lease_s: 5}",
        "speculation: {method: none}",
        "fake_step_s: 0.5",
        "engine: {block_size: 32}",
    ],
)
def test_what_workers_are_started_with_makes_them_outdated(text: str) -> None:
    assert of(plan(text)).build != of(plan()).build
    assert of(plan(text)).model == of(plan()).model


@pytest.mark.parametrize(
    "text",
    [
        "router: {max_queue: 3}",
        "health: {drain_timeout_s: 3, step_timeout_s: 9}",
        "served_name: mine",
        "adapters_dynamic: {folders: [/a]}",
        "slo: {ttft_ms: 3}",
    ],
)
def test_what_is_the_ingress_s_or_the_controller_s_does_not(text: str) -> None:
    assert of(plan(text)) == of(plan())


def test_counts_of_workers_do_not_and_one_pool_s_terms_do_not_touch_another() -> None:
    more = plan(base=BASE.replace("workers: 2", "workers: 5"))
    assert of(more) == of(plan())
    spread = plan(base=BASE.replace("{workers: 2}", "{workers: 2, tensor_parallel: 2}"))
    assert of(spread).build != of(plan()).build
    assert of(spread, Role.PREFILL) == of(plan(), Role.PREFILL)
    assert of(spread).family == of(plan()).family, "gangs of other degrees take each other's requests"


def test_only_the_worker_whose_cores_change_is_outdated() -> None:
    before, after = (
        plan(base=BASE.replace("{workers: 2}", f"{{workers: 2, cores: [[0], [{core}]]}}")) for core in (1, 2)
    )
    assert of(before) == of(after)
    assert of(before, index=1).build != of(after, index=1).build


def test_blocks_of_another_size_are_another_family_and_another_dtype_another_model() -> None:
    assert of(plan("engine: {block_size: 32}")).family != of(plan()).family
    in_fp8 = replace(plan(), config=replace(plan().config, kv=KVConfig(dtype="fp8")))
    assert (of(in_fp8).model, of(in_fp8).family == of(plan()).family) == (of(plan()).model, False)
    other = replace(plan(), config=replace(plan().config, dtype="bfloat16"))
    assert (model_key(other) == model_key(plan()), of(other).family == of(plan()).family) == (False, False)


def test_a_draft_pool_that_comes_or_goes_concerns_all_that_may_come_to_decode() -> None:
    drafted = plan(base=BASE.replace("{workers: 2}", "{workers: 2}, draft: {workers: 1, model: demo-draft}"))
    for role in (Role.PREFILL, Role.DECODE):
        assert of(drafted, role).build != of(plan(), role).build


def test_each_key_has_an_effect_and_no_effect_is_of_a_key_that_is_not_there() -> None:
    keys = flatten(BatonConfig())
    assert {effect_of(key) for key in keys} == set(Effect)
    for name in EFFECTS:
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name
