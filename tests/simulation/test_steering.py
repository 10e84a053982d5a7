"""A pilot that changes a simulated fleet: no request is lost, none is answered twice, and limits hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster, SimPool, SteeredFleet
from cluster.contracts.tuning import Tuning
from cluster.simulator.world import simulate
from tests.simulation.cases import Linear
from workers.spec import Role

Act = Callable[[SteeredFleet], object]


@dataclass(kw_only=True)
class Scripted:
    """Does something at some looks, by their number, and notes what it saw at all."""

    script: Mapping[int, Act]
    interval_s: float = 1.0
    seen: list[tuple[float, int, bool]] = field(default_factory=list)  # time, workers wanted, whether all are there

    def look(self, fleet: SteeredFleet) -> None:
        self.seen.append((fleet.now_s, len(fleet.roles), fleet.is_settled))
        if act := self.script.get(len(self.seen)):
            act(fleet)


def arrivals(count: int = 60, *, every_s: float = 0.2) -> list[Arrival]:
    return [
        Arrival(at_s=i * every_s, num_prompt_tokens=40 + i % 7, num_output_tokens=20 + i % 11) for i in range(count)
    ]


def cluster(**counts: int) -> SimCluster:
    pools = [
        SimPool(role=Role(role), num_workers=count, latency=Linear(), num_blocks=64) for role, count in counts.items()
    ]
    return SimCluster(
        pools=pools,
        engine=EngineConfig(block_size=16, max_batched_tokens=64, max_sequences=16),
        router=RouterConfig(disaggregate_over_tokens=16),
        start_s=0.7,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_come_and_go_and_change_roles_and_every_request_is_answered(seed: int) -> None:
    pilot = Scripted(
        script={
            2: lambda fleet: fleet.set_count(Role.DECODE, 3),
            4: lambda fleet: fleet.set_role("decode-1", Role.PREFILL),
            6: lambda fleet: fleet.set_count(Role.DECODE, 2),
            8: lambda fleet: fleet.set_role("decode-1", Role.DECODE),
        }
    )
    result = simulate(cluster(prefill=1, decode=2), arrivals(), seed=seed, check_every=5, pilot=pilot)
    assert [record.error for record in result.records] == [""] * 60
    assert [num for _, num, _ in pilot.seen[:8]] == [3, 3, 4, 4, 4, 4, 3, 3]
    assert not pilot.seen[2][2] or pilot.seen[3][2]
    assert 3 * result.end_s < result.worker_s < 4 * result.end_s


def test_equal_seeds_and_pilots_make_equal_traces() -> None:
    def run() -> str:
        pilot = Scripted(script={3: lambda fleet: fleet.set_count(Role.MIXED, 2)})
        return simulate(cluster(mixed=1), arrivals(), seed=3, pilot=pilot).trace_hash

    assert run() == run()


def test_a_pilot_that_only_looks_changes_nothing() -> None:
    plain = simulate(cluster(mixed=2), arrivals(), seed=1)
    looked = simulate(cluster(mixed=2), arrivals(), seed=1, pilot=Scripted(script={}))
    assert looked.records == plain.records


def test_limits_that_are_set_hold_from_then_on() -> None:
    many = arrivals(200, every_s=0.01)
    plain = simulate(cluster(mixed=1), many)
    pilot = Scripted(script={1: lambda fleet: fleet.tune(Tuning(max_running=4, max_queue=2))}, interval_s=0.5)
    tuned = simulate(cluster(mixed=1), many, check_every=1, pilot=pilot)
    assert not any(record.error for record in plain.records)
    shed = [record.arrived_s for record in tuned.records if record.error == "overloaded"]
    assert shed
    assert min(shed) > 0.5


def test_a_smaller_step_budget_changes_times_and_no_lengths() -> None:
    pilot = Scripted(script={1: lambda fleet: fleet.tune(Tuning(max_batched_tokens=18))}, interval_s=0.1)
    plain, tuned = (simulate(cluster(mixed=1), arrivals(), pilot=one) for one in (None, pilot))
    assert not any(record.error for record in tuned.records)
    assert ttfts(tuned.records) != ttfts(plain.records)


def ttfts(records: Sequence[RequestRecord]) -> list[float]:
    return [record.ttft_s for record in records]


def test_steps_are_counted_alike_whether_taken_one_by_one_or_at_once() -> None:
    counts = []
    for max_jump in (1, 1 << 62):
        seen: list[tuple[int, int]] = []

        def note(fleet: SteeredFleet, seen: list[tuple[int, int]] = seen) -> None:
            stats = fleet.stats()["mixed-0"]
            seen.append((stats.num_prompt_step_tokens, stats.num_steps - stats.num_decode_steps))

        pilot = Scripted(script=dict.fromkeys(range(1, 40), note))
        simulate(cluster(mixed=1), arrivals(20), max_jump=max_jump, pilot=pilot)
        counts.append(seen[-1])
    assert counts[0] == counts[1]
