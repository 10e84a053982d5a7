"""Rates that are expected of those that were seen."""

import numpy as np
import pytest

from cluster.planner.online.forecast import Forecaster, Season, holt


@pytest.mark.parametrize("value", [0.5, 1.0, 40.0])
def test_a_steady_load_is_forecast_as_it_is(value: float) -> None:
    assert holt([value] * 10, 5) == pytest.approx(value)


def test_no_load_is_forecast_as_none_and_nothing_below() -> None:
    assert holt([0.0] * 6, 3) == 0.0
    assert holt([9.0, 6.0, 3.0, 0.0], 12) >= 0.0


def test_a_rising_load_goes_on_to_rise_but_not_for_ever() -> None:
    rising = [float(count) for count in range(10, 22)]
    soon, late = holt(rising, 2), holt(rising, 100)
    assert soon > sum(rising) / len(rising)
    assert late < 2 * rising[-1]


def test_bursts_do_not_make_a_trend() -> None:
    rng = np.random.default_rng(0)
    gaps_s = rng.gamma(0.2, 1 / (2 * 0.2), 600)
    times_s = np.cumsum(gaps_s).tolist()
    rate = Forecaster(300.0, 30.0).rate([at_s for at_s in times_s if at_s <= 300], 300.0, 150.0, since_s=0.0)
    seen = sum(at_s <= 300 for at_s in times_s) / 300
    assert 0.5 * seen <= rate <= 2 * seen


def test_a_short_past_gives_a_rate_too() -> None:
    forecaster = Forecaster(300.0, 30.0)
    assert forecaster.rate([1.0, 2.0, 3.0], 4.0, 60.0, since_s=0.0) > 0.3
    assert forecaster.rate([], 4.0, 60.0, since_s=0.0) == 0.0
    assert forecaster.rate([], 0.0, 60.0, since_s=0.0) == 0.0


def test_yesterday_tells_of_a_rise_that_no_trend_shows_yet() -> None:
    season = Season()
    for hour in range(24):
        season.note(hour * 3600.0, 10.0 if hour >= 8 else 1.0)
    assert season.rise(7.5 * 3600, 3600) is None  # the same day: nothing of it was seen the day before
    season.note(86400 + 7 * 3600.0, 1.0)
    assert season.rise(86400 + 7 * 3600.0, 3600.0) == pytest.approx(10.0)


def test_yesterday_moves_a_forecast_within_bounds() -> None:
    forecaster = Forecaster(300.0, 30.0)
    for quarter in range(96):
        forecaster.season.note(quarter * 900.0, 10.0 if quarter >= 32 else 1.0)
    now_s = 86400 + 7.9 * 3600
    times_s = [now_s - 300 + i for i in range(300)]
    forecaster.season.note(now_s, 1.0)
    assert 1.0 < forecaster.rate(times_s, now_s, 3600.0, since_s=0.0) <= 2.0
