"""A simulated worker that changes its role: nothing is lost, its cache is kept, others take what it gives back."""

from dataclasses import replace

import pytest

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.simulation import Arrival, SimCluster, SimResult
from cluster.simulator.faults import parse_faults
from cluster.simulator.world import World, simulate
from tests.simulation.test_recovery import cluster
from workers.spec import Role

WITH_CACHE = EngineConfig(prefix_cache=True)


def arrivals(num_requests: int = 12, *, num_prompt: int = 100, num_outputs: int = 100) -> list[Arrival]:
    return [
        Arrival(at_s=0.1 * index, num_prompt_tokens=num_prompt, num_output_tokens=num_outputs)
        for index in range(num_requests)
    ]


def run(simulated: SimCluster, faults: str, load: list[Arrival]) -> SimResult:
    return simulate(simulated, load, seed=3, faults=parse_faults(faults), check_every=1)


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("becomes", ["prefill", "mixed"])
def test_answers_of_a_decode_worker_that_is_to_read_go_on_elsewhere(becomes: str, prefix_cache: bool) -> None:
    simulated = cluster(1, 2, engine=EngineConfig(prefix_cache=prefix_cache))
    baseline, result = run(simulated, "", arrivals()), run(simulated, f"role_{becomes}:decode-1@0.65s", arrivals())
    assert all(record.error == "" for record in result.records)
    moved = [record for record in result.records if record.num_attempts > 1]
    assert bool(moved) is (becomes == "prefill")
    assert {record.decode_id for record in moved} <= {"decode-0"}
    firsts = [[record.first_token_s for record in one.records if record.arrived_s < 0.6] for one in (baseline, result)]
    assert firsts[0] == firsts[1]


def test_what_is_given_back_is_read_again_from_the_cache_of_the_worker_that_wrote_it() -> None:
    """The other one that reads knows the prompts at most, not what was written since."""
    load = arrivals(3, num_prompt=20, num_outputs=400)
    result = run(cluster(1, 2, engine=WITH_CACHE), "role_prefill:decode-1@2.5s", load)
    moved = [record for record in result.records if record.num_attempts > 1]
    assert {(record.prefill_id, record.decode_id) for record in moved} == {("decode-1", "decode-0")}
    end_s = {record.index: record.finished_s for record in run(cluster(1, 2), "", load).records}
    assert all(record.finished_s < end_s[record.index] + 0.4 for record in moved)


def test_a_prefill_worker_that_is_to_write_takes_what_comes_and_hands_over_what_it_reads() -> None:
    load = arrivals(30, num_outputs=200)
    result = run(cluster(2, 1), "role_decode:prefill-1@1s", load)
    assert all(record.error == "" and record.num_attempts == 1 for record in result.records)
    late = [record for record in result.records if record.arrived_s > 1.1]
    assert {record.decode_id for record in late} == {"decode-0", "prefill-1"}
    assert {record.prefill_id for record in late} == {"prefill-0"}


def test_there_and_back_again_and_by_lot() -> None:
    faults = "role_prefill@0.5s,role_decode@0.8s,role_mixed@1.1s,role_prefill:decode-0@1.3s,role_decode:decode-0@1.7s"
    result = run(cluster(2, 2, engine=WITH_CACHE), faults, arrivals(20))
    assert all(record.error == "" for record in result.records)


def test_the_last_worker_that_writes_stays_one() -> None:
    load = arrivals()
    plain, result = run(cluster(1, 1), "", load), run(cluster(1, 1), "role_prefill:decode-0@0.5s", load)
    assert [replace(record) for record in result.records] == plain.records


def test_a_worker_that_dies_comes_back_in_the_role_that_it_was_given() -> None:
    world = World(
        cluster(1, 2),
        arrivals(80, num_outputs=20),
        seed=1,
        faults=parse_faults("role_prefill:decode-1@0.3s,kill:decode-1@0.6s"),
        check_every=None,
        spans=False,
        max_jump=1 << 62,
    )
    world.run()
    assert world.fleet.slots["decode-1"].incarnation == 1
    assert world.fleet.workers["decode-1"].role is Role.PREFILL
    assert all(record.error == "" for record in world.result().records)


def test_hand_overs_cost_the_steps_of_whoever_reads_now() -> None:
    """A worker's costs are of the role that it has, not of the one that it began in."""
    load = [Arrival(at_s=1.0, num_prompt_tokens=100, num_output_tokens=2)]
    simulated = cluster(1, 2, handover_s=0.5, router=RouterConfig(disaggregate_over_tokens=16))
    result = run(simulated, "role_prefill:decode-1@0.1s,role_decode:prefill-0@0.2s", load)
    record = result.records[0]
    assert record.prefill_id == "decode-1"
    assert record.ttft_s == pytest.approx(0.01 + 0.01 + 0.5)
