"""The two algorithms, whole plans and their trouble, on workers whose capacities are known.

A prefill worker serves 10 requests/s, a decode worker 20, one that does both 4 (`Capacities`).
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from baton.errors import ConfigError
from cluster.contracts.latency import Parallelism
from cluster.contracts.simulation import Arrival, SimCluster, SimPool
from cluster.contracts.slo import SLO
from cluster.planner.costs.draft import DraftShape
from cluster.planner.costs.transfer import Path
from cluster.planner.search.candidates import Options, find
from cluster.planner.search.layouts import colocated, floor_of, search_phase
from cluster.planner.search.placement import (
    Layout,
    PoolPlan,
    Site,
    WorkerShape,
    kv_demand,
    nodes_needed,
    num_workers,
    parallelisms,
)
from cluster.planner.search.planning import answer
from cluster.planner.search.refine import refine
from cluster.planner.search.report import affinity, robustness_lines, verdict
from cluster.planner.search.trial import Effort, run_layout, without_idle_blocks
from cluster.simulator.world import simulate
from tests.unit.planner.toy_costs import Capacities, ToyCosts, ToyLatency, question
from workers.spec import Role

ONE = ToyCosts(degrees=(1,))
SHORT = Effort(min_requests=60, max_requests=120, periods=1.0)
SHORT_TRIALS = {"effort": SHORT, "scoring": SHORT, "verifying": SHORT}  # of the simulator itself


def counts(layout: Layout) -> dict[str, int]:
    return {str(pool.role): pool.num_workers for pool in layout.pools}


@pytest.mark.parametrize(("rate", "goodput", "wanted"), [(10, 10, 1), (10.1, 10, 2), (0.1, 10, 1), (45, 10, 5)])
def test_workers_are_the_rate_over_the_goodput_rounded_up(rate: float, goodput: float, wanted: int) -> None:
    assert num_workers(rate, goodput) == wanted


def test_each_phase_gets_as_many_workers_as_the_rate_takes() -> None:
    found = answer(question(costs=ONE, rate=45.0), Options())
    assert counts(found.best.layout) == {"prefill": 5, "decode": 3}
    assert found.best_colocated is None  # it would take 12 of 8 devices
    assert found.best.outcome.attainment == 1.0
    assert found.best.meets
    assert "no co-located plan" in verdict(question(costs=ONE), found)


def test_co_located_wins_where_it_takes_fewer_devices_and_says_why() -> None:
    asked = question(costs=ONE, rate=12.0, simulate=Capacities(mixed=7.0))
    found = answer(asked, Options())
    assert counts(found.best.layout) == {"mixed": 2}
    assert found.best_disaggregated is not None
    assert counts(found.best_disaggregated.layout) == {"prefill": 2, "decode": 1}
    said = verdict(asked, found)
    assert said.startswith("Co-located wins: it takes 2 devices for 12 requests/s, disaggregated takes 3.")
    assert "rounded up to whole workers" in said or "gains nothing" in said


def test_goodput_of_the_plan_is_where_its_scarcer_pool_ends() -> None:
    found = answer(question(costs=ONE, rate=45.0), Options())
    assert 50 * 0.95 <= found.best.goodput <= 50  # five prefill workers of 10
    assert found.best.goodput_per_device == found.best.goodput / 8


def test_the_kv_that_nodes_cannot_send_keeps_both_phases_inside_a_node() -> None:
    weak = Site(num_nodes=4, devices_per_node=3, node_bandwidth=1000.0)
    asked = question(costs=ONE, rate=35.0, site=weak)
    found = answer(asked, Options())
    assert counts(found.best.layout) == {"prefill": 2, "decode": 1}  # 20 requests/s of three devices
    assert (found.best.layout.num_replicas, found.best.layout.within_node) == (2, True)
    assert found.best.kv.needed == 0.0
    assert affinity(asked, found).startswith("Low node affinity: KV would need")
    strong = question(costs=ONE, rate=35.0, site=replace(weak, node_bandwidth=1e9))
    high = answer(strong, Options())
    assert counts(high.best.layout) == {"prefill": 4, "decode": 2}
    assert high.best.layout.num_replicas == 1
    assert affinity(strong, high).startswith("High node affinity")


def test_a_tensor_parallel_worker_wins_where_it_is_worth_its_devices_and_runs() -> None:
    asked = question(
        costs=ToyCosts(gain=1.0), rate=8.0, slo=SLO(ttft_s=0.06, tpot_s=0.1), simulate=simulate, **SHORT_TRIALS
    )
    found = answer(asked, Options())
    shapes = {str(pool.role): pool.shape.parallelism for pool in found.best.layout.pools}
    assert Parallelism(tensor=2) in shapes.values()  # 100 tokens take 100 ms on one device
    assert Parallelism(tensor=2).runs_as(Role.MIXED)
    assert Parallelism(tensor=2).runs_as(Role.DECODE)
    assert Parallelism(sequence=2).runs_as(Role.PREFILL)
    assert not any(Parallelism(sequence=2).runs_as(role) for role in (Role.DECODE, Role.MIXED, Role.DRAFT))
    assert Parallelism(sequence=2, tensor=2).runs_as(Role.PREFILL)
    assert not any(Parallelism(sequence=2, tensor=2).runs_as(role) for role in (Role.DECODE, Role.MIXED, Role.DRAFT))
    assert not Parallelism(sequence=16, tensor=8).runs_as(Role.PREFILL), "a config has 64 ranks at most"
    assert found.best.layout.missing_features == []
    assert answer(asked, Options(runnable_only=True)).best.layout == found.best.layout


def test_drafts_are_tried_and_can_be_started() -> None:
    asked = question(costs=ONE, rate=10.0)
    shapes = (DraftShape(layer_parallel=2, num_drafts=4),)
    with_drafts = find(asked, Options(drafts=shapes), Role.DECODE).candidates
    plain, drafted = sorted(with_drafts, key=lambda candidate: candidate.shape.num_devices)
    assert (plain.shape.num_devices, drafted.shape.num_devices) == (1, 3)
    assert drafted.idle_tpot_s == plain.idle_tpot_s / 2
    assert (plain.is_runnable, drafted.is_runnable) == (True, True)
    layout = colocated(drafted, 2)
    assert layout.missing_features == []
    assert layout.draft == shapes[0]
    assert layout.num_devices == 6


def test_pipelines_are_left_out_unless_asked_for() -> None:
    asked = question()
    plain = {
        str(degrees)
        for degrees in parallelisms(
            asked.site, asked.costs, allow_pipeline=False, allow_sequence=True, runnable_as=None
        )
    }
    assert plain == {"1", "tp2"}
    more = {
        str(degrees)
        for degrees in parallelisms(asked.site, asked.costs, allow_pipeline=True, allow_sequence=True, runnable_as=None)
    }
    assert more == {"1", "tp2", "pp2", "tp2pp2", "pp4", "tp2pp4"}  # divisors of four layers


def test_only_candidates_that_the_bound_leaves_a_chance_are_simulated() -> None:
    asked = question(costs=ToyCosts(degrees=(1, 2, 4, 8)), rate=30.0)
    candidates = find(asked, Options(), Role.PREFILL).promising
    tried: list[str] = []

    def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        items = list(items)
        tried.extend(str(candidate.shape.parallelism) for candidate, _ in items)
        return map(function, items)

    best = search_phase(asked, candidates, run)[0]
    assert best.candidate.shape.parallelism == Parallelism()
    assert "tp8" not in tried  # 28 requests/s at most, of eight devices


@pytest.mark.parametrize(
    ("per_worker", "best", "floor"),
    [(1, None, 0.0), (2, (10.0, 1), 18.0), (1, (20.0, 2), 9.0), (1, (30.0, 2), 10.0 / 3 * 4)],
)
def test_a_candidate_must_come_near_the_best_or_take_fewer_devices(
    per_worker: int, best: tuple[float, int] | None, floor: float
) -> None:
    assert floor_of(question(rate=40.0), per_worker, best) == pytest.approx(floor)


def test_a_layout_that_is_too_small_grows_in_the_pool_that_misses() -> None:
    asked = question(costs=ONE, rate=45.0)
    base = answer(asked, Options()).best.layout
    pools = tuple(replace(pool, num_workers=count) for pool, count in zip(base.pools, (3, 3), strict=True))
    assert counts(refine(asked, replace(base, pools=pools)).layout) == {"prefill": 5, "decode": 3}


def test_a_layout_that_is_too_large_shrinks() -> None:
    asked = question(costs=ONE, rate=15.0)
    base = answer(asked, Options()).best.layout
    pools = tuple(replace(pool, num_workers=4) for pool in base.pools)
    assert counts(refine(asked, replace(base, pools=pools)).layout) == {"prefill": 2, "decode": 1}


def test_trouble_is_more_load_and_one_worker_less_of_each_pool() -> None:
    found = answer(question(costs=ONE, rate=38.0), Options())
    assert counts(found.best.layout) == {"prefill": 4, "decode": 2}
    by_name = {trouble.name: trouble for trouble in found.robustness.troubles}
    assert set(by_name) == {"20 % more requests", "one prefill worker lost", "one decode worker lost"}
    assert not any(trouble.meets for trouble in by_name.values())  # 45.6 of 40, 38 of 30, 38 of 20
    assert 0 <= found.robustness.margin <= 40 / 38 - 1 + 1e-9
    assert "one decode worker lost: 0.0% of requests, the SLO does not hold" in robustness_lines(found.robustness)


def test_losing_the_only_worker_says_what_happens() -> None:
    found = answer(question(costs=ONE, rate=8.0, simulate=Capacities(mixed=1.0, prefill=12.0)), Options())
    notes = {trouble.name: trouble.note for trouble in found.robustness.troubles}
    assert counts(found.best.layout) == {"prefill": 1, "decode": 1}
    assert notes["one prefill worker lost"] == "decode workers read the prompts meanwhile"
    assert "nothing is served until it is replaced" in notes["one decode worker lost"]


def test_stages_of_three_devices_do_not_share_a_node_of_four() -> None:
    fitted = find(question(costs=ONE), Options(), Role.PREFILL).candidates[0].shape.fit
    shape = WorkerShape(role=Role.PREFILL, parallelism=Parallelism(tensor=3, pipeline=3), fit=fitted)
    layout = Layout(pools=(PoolPlan(shape=shape, num_workers=2),), engine=question_engine())
    assert layout.num_devices == 18
    assert nodes_needed(layout, 4) == 6
    assert nodes_needed(layout, 8) == 3


def question_engine() -> Any:
    return find(question(costs=ONE), Options(), Role.PREFILL).candidates[0].engine


def test_kv_needs_what_the_busiest_node_sends_or_receives() -> None:
    asked = question(costs=ONE, rate=45.0)
    layout = answer(asked, Options()).best.layout  # 5 prefill, 3 decode
    site = Site(num_nodes=4, devices_per_node=2, node_bandwidth=1e9)
    demand = kv_demand(layout, rate=45.0, mean_prompt=100.0, token_bytes=10, site=site)
    assert demand.needed == pytest.approx(45 * 100 * 10 * 2 / 3)  # two of three decode workers on one node
    with_state = kv_demand(layout, rate=45.0, mean_prompt=100.0, token_bytes=10, state_bytes=500, site=site)
    assert with_state.needed == pytest.approx(demand.needed * 1.5)
    one_node = replace(site, devices_per_node=8)
    assert kv_demand(layout, rate=45.0, mean_prompt=100.0, token_bytes=10, site=one_node).needed == 0.0


def test_a_plan_too_large_to_simulate_is_sliced_at_no_less_load() -> None:
    asked = question(costs=ONE, rate=100.0, effort=Effort(min_requests=50, max_requests=600, periods=2.0))
    base = answer(question(costs=ONE, rate=45.0), Options()).best.layout
    pools = tuple(replace(pool, num_workers=count) for pool, count in zip(base.pools, (10, 6), strict=True))
    outcome = run_layout(asked, replace(base, pools=pools), 100.0)
    assert outcome.share < 1
    assert outcome.rate == pytest.approx(100.0)
    assert outcome.attainment == 1.0
    short = tuple(replace(pool, num_workers=count) for pool, count in zip(base.pools, (9, 6), strict=True))
    assert run_layout(asked, replace(base, pools=short), 100.0).ttft_attainment == 0.0


class WithinNodesAlone(ToyCosts):
    """What a link to another node takes, nobody measured."""

    def transfer(self, source: Parallelism, target: Parallelism, *, within_node: bool) -> Path:
        assert within_node
        return super().transfer(source, target, within_node=within_node)


def test_of_one_node_no_kv_leaves_even_where_the_layout_is_larger() -> None:
    small = Site(num_nodes=1, devices_per_node=2, node_bandwidth=0.0)
    base = answer(question(costs=ONE, rate=20.0), Options()).best.layout
    pools = tuple(replace(pool, num_workers=2) for pool in base.pools)
    assert len(pools) == 2
    asked = question(costs=WithinNodesAlone(degrees=(1,)), site=small)
    assert run_layout(asked, replace(base, pools=pools), 20.0).attainment == 1.0


def test_states_too_large_for_all_sequences_leave_room_for_fewer() -> None:
    asked = question(costs=ToyCosts(state_bytes=50_000))  # with a tenth free and the weights, room for 15
    found = find(asked, Options(), Role.MIXED)
    plain = [one for one in found.candidates if one.shape.parallelism.num_devices == 1]
    assert plain
    assert {one.engine.max_sequences for one in plain} == {8}


def test_blocks_that_no_trial_could_fill_are_not_simulated() -> None:
    """A tiny model's, of which a device holds millions; the answer is that of all of them."""
    arrivals = [Arrival(at_s=0.01 * index, num_prompt_tokens=100, num_output_tokens=20) for index in range(30)]
    pool = SimPool(role=Role.MIXED, num_workers=2, latency=ToyLatency(), num_blocks=50_000, num_states=60_000)
    whole = SimCluster(pools=(pool,))
    fewer = without_idle_blocks(whole, arrivals)
    (kept,) = fewer.pools
    assert (kept.num_blocks, kept.num_idle_blocks) == (30 * 9, 50_000 - 30 * 9)
    assert kept.num_states == 30 * 9 + whole.engine.max_sequences
    assert simulate(fewer, arrivals).records == simulate(whole, arrivals).records
    small = replace(whole, pools=(replace(pool, num_blocks=20, num_states=0),))
    assert without_idle_blocks(small, arrivals) == small


def test_a_model_that_fits_nowhere_says_the_bytes() -> None:
    costs = ToyCosts(weight_bytes=5_000_000)
    with pytest.raises(
        ConfigError, match=r"fits no device at any degree: at tp2 a device needs 2,\d{3},\d{3} bytes"
    ) as caught:
        answer(question(costs=costs), Options())
    assert "2,500,000 of weights" in str(caught.value)
    assert "has 1,000,000" in str(caught.value)


def test_a_tpot_that_nobody_meets_names_the_limit_and_the_closest_worker() -> None:
    asked = question(costs=ONE, slo=SLO(ttft_s=0.5, tpot_s=0.001))
    with pytest.raises(ConfigError, match=r"--slo-tpot 1: no plan meets it: .* decode worker, takes 2\.0 ms"):
        answer(asked, Options())


def test_a_rate_that_the_devices_do_not_serve_names_the_closest_plan() -> None:
    with pytest.raises(
        ConfigError, match="no plan on 8 devices holds the SLO at 200 requests/s: the closest, "
    ) as caught:
        answer(question(costs=ONE, rate=200.0), Options())
    assert "requests/s; give more nodes, a lower --rate or a wider limit" in str(caught.value)


def test_equal_questions_have_equal_answers_from_the_simulator_itself() -> None:
    asked = question(costs=ONE, rate=12.0, simulate=simulate, slo=SLO(ttft_s=0.5, tpot_s=0.1), **SHORT_TRIALS)
    first, second = (answer(asked, Options()) for _ in range(2))
    assert first == second
    assert first.best.outcome.attainment >= 0.9
