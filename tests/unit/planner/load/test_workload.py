"""Arrivals: what a trace or a distribution becomes, and how they are scaled and cut."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import ConfigError
from cluster.contracts.simulation import Arrival
from cluster.contracts.slo import SLO, attainment
from cluster.planner.load.lengths import Constant, Empirical, Independent, Lognormal, Mix
from cluster.planner.load.traces import TraceRow
from cluster.planner.load.workload import block_hashes, clip, from_trace, mean_rate, rescale, synthetic

CHAT = Independent(prompt=Constant(value=100), output=Constant(value=10))


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def gap_cv_of(arrivals: Sequence[Arrival]) -> float:
    gaps_s = np.diff([arrival.at_s for arrival in arrivals])
    return float(gaps_s.std() / gaps_s.mean())


def row(time_s: float, input_len: int = 600, hash_ids: tuple[int, ...] = ()) -> TraceRow:
    return TraceRow(line=1, time_s=time_s, input_len=input_len, output_len=5, hash_ids=hash_ids)


def test_a_trace_keeps_times_and_lengths() -> None:
    arrivals = from_trace([row(0.0), row(1.5)], block_size=16, rng=rng())
    assert [(one.at_s, one.num_prompt_tokens, one.num_output_tokens) for one in arrivals] == [
        (0.0, 600, 5),
        (1.5, 600, 5),
    ]
    assert arrivals[0].block_hashes == ()


def test_ticks_are_spread_the_same_way_for_the_same_seed() -> None:
    rows = [row(time_s) for time_s in (0, 0, 0, 3, 3, 3, 6, 6)]
    first, again = (from_trace(rows, block_size=16, rng=rng()) for _ in range(2))
    assert first == again
    assert len({arrival.at_s for arrival in first}) == 8


@given(
    block_size=st.sampled_from([1, 16, 24, 100, 512, 1024]),
    num_shared=st.integers(0, 4),
    lengths=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
)
def test_two_prompts_share_the_blocks_that_lie_in_their_common_ids(
    block_size: int, num_shared: int, lengths: tuple[int, int]
) -> None:
    ids = [tuple(place if place < num_shared else 10 * (who + 1) + place for place in range(6)) for who in range(2)]
    first, second = (block_hashes(ids[who], lengths[who], block_size) for who in range(2))
    assert [len(first), len(second)] == [length // block_size for length in lengths]
    num_equal = sum(a == b for a, b in zip(first, second, strict=False))
    assert num_equal == min(*lengths, num_shared * 512) // block_size
    assert len(set(first)) == len(first)


def test_synthetic_load_has_the_rate_and_the_burstiness_asked_for() -> None:
    for gap_cv in (0.0, 0.5, 1.0, 3.0):
        load = synthetic(CHAT, rate=5.0, num_requests=20_000, rng=rng(), gap_cv=gap_cv)
        assert mean_rate(load) == pytest.approx(5.0, rel=0.02)
        assert gap_cv_of(load) == pytest.approx(gap_cv, abs=0.1)


def test_shared_prompts_begin_with_their_groups_blocks_and_share_no_more_when_played_twice() -> None:
    arrivals = synthetic(CHAT, rate=1.0, num_requests=50, rng=rng(), num_shared_tokens=64, num_groups=2, block_size=16)
    assert {arrival.num_prompt_tokens for arrival in arrivals} == {164}
    assert {arrival.block_hashes for arrival in arrivals} == {(0, 1, 2, 3), (4, 5, 6, 7)}


def test_lognormal_lengths_have_their_mean_and_median() -> None:
    drawn = Lognormal(mean=211, median=129).draw(100_000, rng())
    assert drawn.mean() == pytest.approx(211, rel=0.03)
    assert np.median(drawn) == pytest.approx(129, rel=0.03)
    assert Lognormal(mean=211, median=129, max_tokens=400).draw(1000, rng()).max() == 400


def test_a_mix_has_both_humps_and_empirical_pairs_stay_together() -> None:
    code = Empirical(pairs=[(3000, 20), (4000, 30)])
    load = synthetic(Mix(parts=[(3, CHAT), (1, code)]), rate=1.0, num_requests=4000, rng=rng())
    pairs = {(arrival.num_prompt_tokens, arrival.num_output_tokens) for arrival in load}
    assert pairs == {(100, 10), (3000, 20), (4000, 30)}
    assert sum(arrival.num_prompt_tokens == 100 for arrival in load) / 4000 == pytest.approx(0.75, abs=0.03)


def test_rescaling_keeps_the_pattern() -> None:
    load = synthetic(CHAT, rate=2.0, num_requests=100, rng=rng(), gap_cv=2.0)
    faster = rescale(load, 8.0)
    assert mean_rate(faster) == pytest.approx(8.0)
    assert gap_cv_of(faster) == pytest.approx(gap_cv_of(load))


def test_clipping_counts_and_cuts_what_does_not_fit() -> None:
    load = from_trace([row(0.0, 600, (1, 2)), row(1.0, 60, (1,))], block_size=16, rng=rng())
    fitted, num_clipped = clip(load, 100, block_size=16)
    assert num_clipped == 1
    assert (fitted[0].num_prompt_tokens, fitted[0].num_output_tokens) == (95, 5)
    assert fitted[0].block_hashes == load[0].block_hashes[:5]
    assert fitted[1] is load[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synthetic(CHAT, rate=0, num_requests=1, rng=rng()), "rate 0 must be above 0"),
        (lambda: synthetic(CHAT, rate=float("nan"), num_requests=1, rng=rng()), "rate nan"),
        (lambda: synthetic(CHAT, rate=1, num_requests=0, rng=rng()), "num_requests 0"),
        (lambda: synthetic(CHAT, rate=1, num_requests=1, rng=rng(), gap_cv=-1), "gap_cv -1"),
        (lambda: Constant(value=0), "length 0 must be"),
        (lambda: Lognormal(mean=5, median=9), "mean >= median"),
        (lambda: Empirical(pairs=[]), "at least one"),
        (lambda: Empirical(pairs=[(5, 0)]), re.escape("(5, 0) must be 1 token or more")),
        (lambda: Mix(parts=[(0, CHAT)]), "weights above 0"),
        (lambda: mean_rate(synthetic(CHAT, rate=1, num_requests=1, rng=rng())), "at least two"),
        (lambda: rescale([], 1.0), "at least two"),
        (lambda: SLO(ttft_s=0, tpot_s=1), "ttft 0 ms"),
        (lambda: SLO(ttft_s=1, tpot_s=float("nan")), "tpot nan ms"),
        (lambda: SLO(ttft_s=1, tpot_s=1, attainment=90), "attainment 90 must be a share"),
    ],
)
def test_bad_values_are_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()


def test_attainment_asks_for_both_limits_and_counts_lost_requests_as_missed() -> None:
    slo = SLO(ttft_s=0.2, tpot_s=0.1)
    times_s = [(0.2, 0.1), (0.3, 0.0), (0.1, 0.2), (float("nan"), float("nan"))]
    assert attainment(slo, times_s) == 0.25
    assert attainment(slo, []) == 0.0
