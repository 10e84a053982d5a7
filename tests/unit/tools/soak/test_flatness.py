"""Leaks are seen through noise, youth and restarts; what settles is not called a leak."""

from random import Random

import pytest

from tools.soak.flatness import MIB, slope, trends

RNG = Random(5)
Points = list[tuple[str, int, float, float]]


def lived(pid: int, begin_s: int, end_s: int, base: float, per_s: float = 0.0, noise: float = 0.0) -> Points:
    return [
        ("decode", pid, float(at_s), base + per_s * (at_s - begin_s) + RNG.uniform(-noise, noise))
        for at_s in range(begin_s, end_s, 5)
    ]


def test_a_slope_is_of_most_points_not_of_single_ones() -> None:
    points = [(float(at_s), 2.0 * at_s) for at_s in range(20)]
    points[7] = (7.0, 1e6)
    assert slope(points) == pytest.approx(2.0)


def test_noise_is_flat_and_a_leak_below_it_is_seen() -> None:
    (flat,), _ = trends(lived(1, 0, 1800, 300 * MIB, noise=3 * MIB), "anonymous", 900, 1800)
    assert flat.is_flat
    (leak,), _ = trends(lived(1, 0, 1800, 300 * MIB, per_s=0.03 * MIB, noise=3 * MIB), "anonymous", 900, 1800)
    assert leak.growth == pytest.approx(27 * MIB, rel=0.1)
    assert not leak.is_flat


def test_growth_in_the_first_half_does_not_count() -> None:
    points = lived(1, 0, 900, 100 * MIB, per_s=0.1 * MIB) + lived(1, 900, 1800, 190 * MIB)
    (trend,), _ = trends(points, "anonymous", 900, 1800)
    assert trend.is_flat


def test_a_process_is_young_once_and_that_is_no_leak() -> None:
    young = [("decode", 2, float(at_s), min(300.0, 20.0 * (at_s - 1000)) * MIB) for at_s in range(1000, 1800, 5)]
    (trend,), _ = trends(young, "anonymous", 900, 1800)
    assert trend.is_flat


def test_of_several_processes_of_a_kind_the_one_that_grows_most_is_told() -> None:
    points = lived(1, 0, 1800, 60.0) + lived(2, 0, 1800, 60.0, per_s=0.05)
    (trend,), _ = trends(points, "fds", 900, 1800)
    assert (trend.pid, trend.is_flat) == (2, False)


def test_kinds_whose_processes_die_young_are_named() -> None:
    found, young = trends(lived(1, 900, 960, 60.0) + lived(2, 960, 1000, 60.0), "fds", 900, 1800)
    assert (found, young) == ([], ["decode"])


def test_a_new_process_may_grow_to_what_one_before_it_held_and_no_further() -> None:
    elder = lived(1, 0, 1000, 328 * MIB)
    slow = [("decode", 2, float(at_s), (300 + 28 * (at_s - 1000) / 800) * MIB) for at_s in range(1000, 1800, 5)]
    (trend,), _ = trends(elder + slow, "anonymous", 900, 1800)
    assert trend.is_flat
    further = [(kind, pid, at_s, value + (at_s - 1000) * MIB / 10) for kind, pid, at_s, value in slow]
    (trend,), _ = trends(elder + further, "anonymous", 900, 1800)
    assert not trend.is_flat


def test_what_settles_in_a_short_life_is_not_drawn_out_over_the_half_and_a_leak_in_it_is_seen() -> None:
    """Steps of a huge page each, as one that starts anew with each peer takes them."""
    settles = lived(1, 500, 900, 306 * MIB) + [
        ("decode", 1, float(at_s), (306 + 2 * min(4, (at_s - 900) // 60)) * MIB) for at_s in range(900, 1205, 5)
    ]
    (trend,), _ = trends(settles, "anonymous", 900, 1800)
    assert trend.growth == pytest.approx(8 * MIB, rel=0.3)
    assert trend.is_flat
    (leak,), _ = trends(lived(1, 500, 1205, 300 * MIB, per_s=0.05 * MIB), "anonymous", 900, 1800)
    assert not leak.is_flat
