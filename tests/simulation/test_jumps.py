"""Decode steps taken many at once leave everything as one step after the other does, with faults too."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.contracts.simulation import SimResult
from cluster.simulator.world import JUMP, simulate
from tests.simulation.cases import with_faults


def outcome(seed: int, max_jump: int) -> dict[str, object]:
    case = with_faults(seed)
    result = simulate(
        case.cluster, case.arrivals, seed=seed, faults=case.faults, check_every=50, spans=True, max_jump=max_jump
    )
    return told(result)


def told(result: SimResult) -> dict[str, object]:
    return {
        "records": list(map(repr, result.records)),
        "end_s": result.end_s,
        "busy_s": result.busy_s,
        "peak_blocks": result.peak_blocks,
        "bytes_sent": result.bytes_sent,
        "num_preemptions": result.num_preemptions,
        "spans": result.spans,
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40), st.sampled_from([1, 2, 7]))
def test_a_jump_is_as_many_steps_one_by_one(seed: int, max_jump: int) -> None:
    assert outcome(seed, max_jump) == outcome(seed, JUMP)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 2000, 200))
def test_two_thousand_cases_jumped_and_stepped(start: int) -> None:
    for seed in range(start, start + 200):
        assert outcome(seed, 1) == outcome(seed, JUMP), f"seed {seed}"
