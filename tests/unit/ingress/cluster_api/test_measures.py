"""What plots are made of: percentiles, slices of time, rates of counters, and what changed."""

import random

import pytest

from cluster.ingress.cluster_api import histogram
from cluster.ingress.cluster_api.change import change
from cluster.ingress.cluster_api.load import LoadMeter
from cluster.ingress.cluster_api.request_window import NUM_STEPS, STEP_S, RequestWindow, joined
from cluster.ingress.cluster_api.trend import Trend
from cluster.router.handovers import MAX_PAIRS, Handed, Handovers, Pair
from tests.unit.ingress.cluster_api.fleets import GOOD, ended, worker
from workers.spec import Role


def test_percentiles_are_right_within_five_percent() -> None:
    rng = random.Random(7)
    values = sorted(rng.lognormvariate(-2, 1) for _ in range(1000))
    window = RequestWindow(GOOD, clock=lambda: 0.0)
    for value in values:
        window.tell(ended(ttft_s=value))
    (counts,) = [one.ttft for one in window.slices().values()]
    for share, place in ((0.5, 499), (0.9, 899), (0.99, 989)):
        assert histogram.quantile(counts, share) == pytest.approx(values[place], rel=0.05)
    assert histogram.quantile({}, 0.5) is None


def test_a_window_judges_requests_by_the_slo_and_forgets_those_of_long_ago() -> None:
    now = [1000.0]
    window = RequestWindow(GOOD, clock=lambda: now[0])
    for one in (ended(), ended(ttft_s=0.9), ended(tpot_s=None), ended(status="overloaded", ttft_s=None)):
        window.tell(one)
    (first,) = window.slices().values()
    assert (first.num_ended, first.num_met, first.num_failed, first.num_cached_tokens) == (4, 2, 1, 160)
    now[0] += NUM_STEPS * STEP_S
    window.tell(ended())
    assert [one.num_ended for one in window.slices().values()] == [1]


def test_several_replicas_requests_are_counted_together_and_theirs_stay_as_they_are() -> None:
    windows = [RequestWindow(GOOD, clock=lambda: 50.0) for _ in range(2)]
    for window in windows:
        window.tell(ended())
    whole = joined([window.slices() for window in windows])
    assert [one.num_ended for one in whole.values()] == [2]
    assert sum(whole[10].ttft.values()) == 2
    assert [one.num_ended for one in windows[0].slices().values()] == [1]


def test_rates_leave_out_what_new_workers_have_counted_before() -> None:
    meter = LoadMeter()
    meter.measure([worker("decode-0", num_output_tokens=100)], 10.0)
    views = [
        worker("decode-0", num_output_tokens=150, num_referenced_blocks=5),
        worker("decode-1", num_output_tokens=9),
    ]
    load = meter.measure(views, 12.0)
    assert (load.output_tokens_per_s, load.num_blocks, load.num_used_blocks) == (25.0, 200, 5)
    load = meter.measure([worker("decode-0", incarnation="b", num_output_tokens=3)], 14.0)
    assert load.output_tokens_per_s == 0


def test_a_trend_has_a_point_for_each_slice_and_none_twice() -> None:
    trend, window = Trend(), RequestWindow(GOOD, clock=lambda: 103 * STEP_S)
    trend.add(101, LoadMeter().measure([worker("prefill-0", Role.PREFILL, num_running=2)], 0.0))
    window.tell(ended())
    points = trend.points(window.slices(), 104)
    assert [point["at_s"] for point in points] == [505.0, 510.0, 515.0, 520.0]
    assert [point["num_running"] for point in points] == [2, None, None, None]
    assert points[2]["ttft_ms"] == pytest.approx([200, 200, 200], rel=0.05)
    assert points[3]["ttft_ms"] is None


def test_pairs_are_counted_between_two_looks_and_never_without_bound() -> None:
    handovers = Handovers()
    handovers.add("prefill-0", "decode-0", 100)
    handovers.add("prefill-0", "decode-0", 50)
    assert handovers.take() == {Pair("prefill-0", "decode-0"): Handed(2, 150)}
    for number in range(MAX_PAIRS + 10):
        handovers.add("prefill-0", f"decode-{number}", 1)
    assert len(handovers.take()) == MAX_PAIRS
    assert handovers.take() == {}


def test_a_change_has_what_differs_alone() -> None:
    quiet = {"model": "m", "trend": [{"at_s": 5, "x": 1}], "events": [], "number": 1, "at_s": 1.0}
    before = quiet | {"workers": [{"key": "a", "num_running": 1, "id": "a"}, {"key": "b", "id": "b"}]}
    now = before | {"number": 2, "at_s": 2.0}
    assert change(before, now) == {}
    now["workers"] = [{"key": "a", "num_running": 2, "id": "a"}, {"key": "c", "id": "c"}]
    now["trend"] = [{"at_s": 5, "x": 1}, {"at_s": 10, "x": 3}]
    now["events"] = [{"fleet": "m", "number": 1, "text": "t"}]
    assert change(before, now) == {
        "number": 2,
        "at_s": 2.0,
        "workers": {"a": {"num_running": 2}, "c": {"key": "c", "id": "c"}},
        "gone": ["b"],
        "trend": [{"at_s": 10, "x": 3}],
        "events": [{"fleet": "m", "number": 1, "text": "t"}],
    }
