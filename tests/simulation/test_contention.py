"""Workers of one machine slow each other down; a prompt that changes workers costs both of them time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.overheads import Contention
from cluster.contracts.simulation import Arrival, SimCluster, SimPool, SimResult
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from cluster.simulator.world import JUMP, simulate
from tests.simulation.cases import with_faults
from workers.spec import Role

DECODE = DecodeFit(base_s=0.02, per_context_s=0.0, per_sequence_s=0.0)
LATENCY = CoefficientLatency(
    prefill=PrefillFit(base_s=0.1, per_token_s=0.0, per_square_s=0.0),
    decode_small=DECODE,
    decode_large=DECODE,
    large_from=95,
)
CONTENTION = Contention(workers_per_machine=2, prompts=0.2, decodes=0.5)


def cluster(*roles: Role, num_workers: int = 1) -> SimCluster:
    pools = [SimPool(role=role, num_workers=num_workers, latency=LATENCY, num_blocks=1000) for role in roles]
    return SimCluster(
        pools=pools,
        engine=EngineConfig(prefix_cache=False),
        router=RouterConfig(disaggregate_over_tokens=0),
        contention=CONTENTION,
    )


def asked(at_s: float, num_output_tokens: int) -> Arrival:
    return Arrival(at_s=at_s, num_prompt_tokens=100, num_output_tokens=num_output_tokens)


def test_two_decoding_workers_are_as_much_slower_as_was_measured() -> None:
    both = simulate(cluster(Role.MIXED, num_workers=2), [asked(0.0, 101), asked(0.0, 101)]).records
    for record in both:
        assert record.ttft_s in (pytest.approx(0.1), pytest.approx(0.12))  # the first to begin saw nobody beside it
        assert record.finished_s - record.first_token_s == pytest.approx(100 * 0.02 * 1.5, rel=0.01)


def test_a_prompt_slows_the_decodes_that_begin_while_it_is_read() -> None:
    first, second = simulate(cluster(Role.PREFILL, Role.DECODE), [asked(0.0, 101), asked(0.5, 1)]).records
    assert second.ttft_s == pytest.approx(0.1 * 1.2)
    # The prompt's 0.12 s hold four of the first one's steps, at 0.03 s each, or touch a fifth.
    assert 100 * 0.02 + 4 * 0.01 <= first.finished_s - first.first_token_s + 1e-9 <= 100 * 0.02 + 5 * 0.01 + 2e-9


def test_workers_of_other_machines_do_not_matter() -> None:
    whole = cluster(Role.MIXED, num_workers=4)
    apart = replace(whole, contention=replace(CONTENTION, workers_per_machine=1))
    alone, beside = (simulate(each, [asked(0.0, 101)] * 4).end_s for each in (apart, whole))
    assert alone == pytest.approx(0.1 + 100 * 0.02)
    assert beside == pytest.approx(0.1 + 100 * 0.02 * 1.5, rel=0.02)  # one neighbour each, not three


def test_a_hand_over_costs_both_sides() -> None:
    plain = replace(cluster(Role.PREFILL, Role.DECODE), contention=Contention())
    costly = replace(plain, handover_s=0.01, receive_s=0.005)
    arrivals = [asked(0.0, 101), asked(0.5, 101)]
    first, second = simulate(costly, arrivals).records
    assert second.ttft_s == pytest.approx(0.1 + 0.01)
    assert first.finished_s - first.first_token_s == pytest.approx(100 * 0.02 + 2 * 0.005)  # its own, the other's


def told(result: SimResult) -> object:
    return list(map(repr, result.records)), result.end_s, result.busy_s, result.spans


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 40), st.sampled_from([1, 2, 7]))
def test_a_jump_is_as_many_steps_one_by_one_beside_others_too(seed: int, max_jump: int) -> None:
    case = with_faults(seed)
    shared = replace(case.cluster, contention=CONTENTION, handover_s=1e-3, receive_s=5e-4)
    jumped, stepped = (
        simulate(shared, case.arrivals, seed=seed, faults=case.faults, check_every=50, spans=True, max_jump=each)
        for each in (JUMP, max_jump)
    )
    assert told(jumped) == told(stepped)
