"""Decode workers of several stages, against what can be added up by hand."""

from dataclasses import replace

import pytest

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.simulation import Arrival, Pipelining, RequestRecord, SimCluster, SimPool
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from cluster.simulator.world import simulate
from workers.spec import Role

PROMPT_S, BASE_S, SEQUENCE_S = 0.001, 0.02, 0.01
HOST_S = 0.004


def latency(stages: int) -> CoefficientLatency:
    decode = DecodeFit(base_s=BASE_S, per_context_s=0.0, per_sequence_s=SEQUENCE_S)
    return CoefficientLatency(
        prefill=PrefillFit(base_s=PROMPT_S, per_token_s=0.0, per_square_s=0.0),
        decode_small=decode,
        decode_large=decode,
        large_from=95,
        pipeline_stages=stages,
    )


def decoded(
    arrivals: list[Arrival], how: Pipelining, *, stages: int = 2, receive_token_s: float = 0.0
) -> list[RequestRecord]:
    pools = [
        SimPool(role=Role.PREFILL, num_workers=1, latency=latency(1), num_blocks=1000),
        SimPool(
            role=Role.DECODE,
            num_workers=1,
            latency=latency(stages),
            num_blocks=1000,
            receive_token_s=receive_token_s,
            pipelining=how,
        ),
    ]
    cluster = SimCluster(
        pools=pools, engine=EngineConfig(prefix_cache=False), router=RouterConfig(disaggregate_over_tokens=0)
    )
    return simulate(cluster, arrivals).records


def both(num_outputs: int) -> list[Arrival]:
    return [Arrival(at_s=0.0, num_prompt_tokens=100, num_output_tokens=num_outputs) for _ in range(2)]


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_one_sequence_alone_gains_nothing_by_stages(stages: int) -> None:
    (record,) = decoded(both(101)[:1], Pipelining(host_step_s=HOST_S), stages=stages)
    assert record.tpot_s == pytest.approx(BASE_S + SEQUENCE_S)


def test_two_batches_in_two_stages_step_as_one_alone_does() -> None:
    for record in decoded(both(101), Pipelining()):
        assert record.tpot_s == pytest.approx(BASE_S + SEQUENCE_S, rel=0.02)


def test_the_host_takes_its_time_once_for_each_batch_and_for_one_after_the_other() -> None:
    """Each batch is in a stage half of the step's time less the host's; both wait for the host in turn."""
    slow_host_s = 0.025  # of 0.03 s: the stages take 2.5 ms each, so that both batches wait for the host
    first, second = decoded(both(101), Pipelining(host_step_s=slow_host_s))
    assert first.tpot_s == pytest.approx(2 * slow_host_s, rel=0.02)
    assert second.tpot_s == pytest.approx(2 * slow_host_s, rel=0.02)


def test_one_batch_of_all_takes_the_time_of_one_stage_s_worker() -> None:
    together = Pipelining(join="lot", open_after_s=1e9, in_turns=True)
    for record in decoded(both(101), together):
        assert record.tpot_s == pytest.approx(BASE_S + 2 * SEQUENCE_S, rel=0.02)


def test_another_batch_opens_when_one_has_been_alone_for_long_enough() -> None:
    how = Pipelining(join="lot", open_after_s=1.0, in_turns=True)
    late = Arrival(at_s=1.5, num_prompt_tokens=100, num_output_tokens=21)
    _, second = decoded([both(201)[0], late], how)
    assert second.tpot_s == pytest.approx(BASE_S + SEQUENCE_S, rel=0.06)
    together = replace(how, open_after_s=10.0)
    _, second = decoded([both(201)[0], late], together)
    assert second.tpot_s == pytest.approx(BASE_S + 2 * SEQUENCE_S, rel=0.06)


def test_kv_comes_in_when_the_steps_on_their_way_have_left_every_stage() -> None:
    """With one batch alone nothing is on its way when it is looked for; with two the other one is."""
    arrivals = [*both(201), Arrival(at_s=2.0, num_prompt_tokens=300, num_output_tokens=2)]
    alone = decoded([arrivals[0], arrivals[2]], Pipelining(join="lot", open_after_s=1e9, in_turns=True))[0]
    stalled = decoded(
        [arrivals[0], arrivals[2]],
        Pipelining(join="lot", open_after_s=1e9, in_turns=True),
        receive_token_s=1e-4,
    )[0]
    # Its own 100 tokens before its first step, and the other's 300 tokens between two steps.
    assert stalled.finished_s - alone.finished_s == pytest.approx(0.01 + 0.03)
    free = decoded(arrivals, Pipelining(in_turns=True))[0]
    drained = decoded(arrivals, Pipelining(in_turns=True), receive_token_s=1e-4)[0]
    lost_s = drained.finished_s - free.finished_s
    half_step_s = (BASE_S + SEQUENCE_S) / 2  # of the other batch: it has the last stage before it
    assert 0.02 + 0.03 < lost_s <= 0.02 + 0.03 + 3 * half_step_s


def test_an_engine_that_works_in_turns_sees_a_prompt_only_when_the_step_on_its_way_is_done() -> None:
    arrivals = [
        Arrival(at_s=0.0, num_prompt_tokens=100, num_output_tokens=1),
        Arrival(at_s=0.3, num_prompt_tokens=100, num_output_tokens=1),
    ]
    slow = replace(latency(2), prefill=PrefillFit(base_s=1.0, per_token_s=0.0, per_square_s=0.0))
    found = {}
    for in_turns in (False, True):
        pool = SimPool(
            role=Role.MIXED, num_workers=1, latency=slow, num_blocks=1000, pipelining=Pipelining(in_turns=in_turns)
        )
        found[in_turns] = simulate(SimCluster(pools=[pool]), arrivals).records[1].ttft_s
    assert found[False] == pytest.approx(0.5 - 0.3 + 1.0)
    assert found[True] == pytest.approx(1.0 - 0.3 + 1.0)
