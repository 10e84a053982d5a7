"""What each named fault does to requests, and how production's fleet and lifecycle get over it."""

from dataclasses import replace

import pytest

from baton.errors import ConfigError
from cluster.config.schema import EngineConfig, HealthConfig, KVConfig, RouterConfig
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster, SimPool, SimResult
from cluster.simulator.faults import parse_faults
from cluster.simulator.world import simulate
from tests.simulation.cases import Linear, Path
from workers.spec import Role

STEP = Linear(base_s=0.01, prompt_token_s=1e-4, decode_s=0.0, context_token_s=0.0)  # a decode step: 10 ms
FAR = 1_000.0


def cluster(num_prefill: int, num_decode: int, **changes: object) -> SimCluster:
    pools = [
        SimPool(role=role, num_workers=count, latency=STEP, num_blocks=200)
        for role, count in ((Role.PREFILL, num_prefill), (Role.DECODE, num_decode))
    ]
    base = SimCluster(
        pools=pools,
        engine=EngineConfig(prefix_cache=False),
        router=RouterConfig(disaggregate_over_tokens=16),
        kv=KVConfig(lease_s=5.0),
        health=HealthConfig(step_timeout_s=2.0),
        token_bytes=1000,
        transfer=Path(latency_s=0.0, bytes_per_s=1e6),
        report_interval_s=0.1,
        start_s=3.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def run(simulated: SimCluster, faults: str, *, num_requests: int = 4, num_outputs: int = 100) -> SimResult:
    arrivals = [
        Arrival(at_s=0.1 * index, num_prompt_tokens=100, num_output_tokens=num_outputs) for index in range(num_requests)
    ]
    return simulate(simulated, arrivals, seed=3, faults=parse_faults(faults), check_every=1)


def attempts(result: SimResult) -> list[int]:
    return [record.num_attempts for record in result.records]


def errors(result: SimResult) -> list[str]:
    return [record.error for record in result.records]


def longest_s(records: list[RequestRecord]) -> float:
    return max(record.finished_s - record.arrived_s for record in records)


def test_requests_of_a_dead_decode_worker_go_on_at_another_with_what_they_have() -> None:
    baseline, result = run(cluster(1, 2), ""), run(cluster(1, 2), "kill:decode-0@0.6s")
    assert errors(result) == [""] * 4
    assert sorted(set(attempts(result))) == [1, 2]
    assert {record.decode_id for record in result.records} == {"decode-1"}
    assert [record.first_token_s for record in result.records] == [record.first_token_s for record in baseline.records]
    assert longest_s(result.records) < longest_s(baseline.records) + 0.4  # not from the beginning


def test_a_dead_workers_place_is_filled_after_its_start() -> None:
    result = run(cluster(1, 1), "kill_decode@0.6s")
    assert errors(result) == [""] * 4
    assert attempts(result) == [2] * 4
    assert longest_s(result.records) == pytest.approx(3.0 + 0.6 + 1.0, abs=0.6)


def test_a_place_that_is_away_is_filled_later_and_a_slow_start_takes_its_factor() -> None:
    plain, away, slow = (
        run(cluster(1, 1), faults).end_s
        for faults in ("kill_decode@0.6s", "kill_decode@0.6s/7s", "slow_start@0s*2/9s,kill_decode@0.6s")
    )
    assert away - plain == pytest.approx(7.0, abs=0.5)
    assert slow - plain == pytest.approx(3.0, abs=0.5)


def test_a_dead_prefill_worker_costs_its_prompts_an_attempt_and_running_answers_nothing() -> None:
    result = run(cluster(2, 1), "kill:prefill-0@0.36s,kill:prefill-1@0.36s")
    assert errors(result) == [""] * 4
    assert attempts(result) == [1, 1, 1, 2]
    assert result.records[3].prefill_id == ""  # nobody else was there: decode read it


def test_losses_beyond_max_retries_end_a_request_by_name() -> None:
    no_retries = cluster(1, 2, router=RouterConfig(disaggregate_over_tokens=16, max_retries=0))
    result = run(no_retries, "kill:decode-0@0.6s,kill:decode-1@0.6s")
    assert set(errors(result)) == {"unavailable"}


def test_a_death_that_is_noticed_late_is_got_over_late() -> None:
    soon, late = (run(cluster(1, 2, detect_s=detect_s), "kill:decode-0@0.6s") for detect_s in (0.0, 1.5))
    assert errors(late) == [""] * 4
    assert longest_s(late.records) - longest_s(soon.records) == pytest.approx(1.5, abs=0.2)


def test_a_restart_drains_first_so_nobody_notices() -> None:
    baseline, result = run(cluster(1, 2), ""), run(cluster(1, 2), "restart:decode-0@0.6s")
    assert attempts(result) == [1] * 4
    assert longest_s(result.records) == pytest.approx(longest_s(baseline.records), abs=0.05)


def test_a_restart_of_one_that_does_not_come_to_an_end_is_a_loss() -> None:
    hasty = cluster(1, 2, health=HealthConfig(drain_timeout_s=0.3))
    result = run(hasty, "restart:decode-0@0.5s")
    assert errors(result) == [""] * 4
    assert max(attempts(result)) == 2


def test_a_slow_link_delays_what_moves_meanwhile_alone() -> None:
    baseline, result = run(cluster(1, 1), ""), run(cluster(1, 1), "slow_link:decode-0@0s*0.1/0.25s")
    slower = [after.tpot_s - before.tpot_s for before, after in zip(baseline.records, result.records, strict=True)]
    assert slower[0] * 99 == pytest.approx(0.9, abs=0.05)  # 100 kB at 0.1 MB/s instead of 1 MB/s
    assert attempts(result) == [1] * 4


def test_a_lost_ack_keeps_blocks_for_a_lease_and_costs_no_attempt() -> None:
    baseline, result = run(cluster(1, 1), "", num_outputs=600), run(cluster(1, 1), "lost_ack@0s", num_outputs=600)
    assert attempts(result) == [1] * 4
    assert [record.finished_s for record in result.records] == [record.finished_s for record in baseline.records]


def test_a_link_on_which_a_message_takes_longer_than_a_lease_costs_an_attempt() -> None:
    (record,) = run(cluster(1, 1), "slow_link:decode-0@0s*0.01/4s", num_requests=1).records
    assert (record.error, record.num_attempts) == ("", 2)
    begun_s, lease_s = 0.02, 5.0  # read in 20 ms; what is lost blocks the path for 100 kB at 10 kB/s
    assert record.finished_s == pytest.approx(begun_s + 10.0 + 0.1 + 99 * 0.01, abs=0.05)
    assert record.finished_s > lease_s


def test_a_long_transfer_is_renewed_between_its_messages() -> None:
    """It takes two leases, each of its messages less than half of one; the ack is waited for from the last one on."""
    (record,) = run(cluster(1, 1, token_bytes=100_000), "", num_requests=1).records
    assert (record.error, record.num_attempts) == ("", 1)
    assert record.finished_s == pytest.approx(0.01 + 10.0 + 99 * 0.01, abs=0.05)


def test_a_dead_sender_that_nobody_knows_of_holds_blocks_for_a_lease() -> None:
    """The prompt that it was reading has 7 of 8 blocks at decode: an answer there waits for them at its 17th token."""
    spec = cluster(1, 1, detect_s=20.0)
    spec = replace(spec, pools=[spec.pools[0], replace(spec.pools[1], num_blocks=8)])
    arrivals = [
        Arrival(at_s=0.0, num_prompt_tokens=100, num_output_tokens=20),
        Arrival(at_s=0.012, num_prompt_tokens=10, num_output_tokens=20),
    ]
    result = simulate(spec, arrivals, faults=parse_faults("kill_prefill@0.015s"), check_every=1)
    handed_over, alone = result.records
    assert alone.num_attempts == 1
    assert alone.finished_s == pytest.approx(5.0 + 5.0 / 12 + 14 * 0.01, abs=0.05)
    assert (handed_over.error, handed_over.num_attempts) == ("", 2)
    assert handed_over.first_token_s > 20.0


def test_a_short_stall_is_waited_for_and_a_long_one_is_replaced() -> None:
    baseline, short, long = (
        run(cluster(1, 1), faults)
        for faults in ("", "stalled_rank:decode-0@0.6s/1s", "stalled_rank:decode-0@0.6s/1min")
    )
    assert attempts(short) == [1] * 4
    assert longest_s(short.records) - longest_s(baseline.records) == pytest.approx(1.0, abs=0.05)
    assert errors(long) == [""] * 4
    assert attempts(long) == [2] * 4
    assert longest_s(long.records) == pytest.approx(0.6 + 2.0 + 3.0 + 1.0, abs=1.0)  # wedged, started anew, written


def test_faults_by_lot_follow_the_seed() -> None:
    traces = [run(cluster(2, 3), "kill_decode@0.6s,stalled_rank@0.3s/0.2s").trace_hash for _ in range(2)]
    assert traces[0] == traces[1]


def test_a_fault_that_the_cluster_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="kill_mixed: the cluster has no mixed worker"):
        run(cluster(1, 1), "kill_mixed@1s")
