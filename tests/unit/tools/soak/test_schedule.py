"""What is planned follows from the seed, and nothing that can be had is left out."""

from tools.soak.schedule import QUIET_BEGIN, QUIET_END, Kind, default_gap_s, schedule

KINDS = [Kind.KILL_PREFILL, Kind.KILL_DECODE, Kind.KILL_HAPROXY, Kind.FLIP_ROLE]


def test_the_same_seed_plans_the_same_and_another_one_does_not() -> None:
    assert schedule(3, 600, 20, KINDS) == schedule(3, 600, 20, KINDS)
    assert schedule(3, 600, 20, KINDS) != schedule(4, 600, 20, KINDS)


def test_every_kind_comes_before_any_comes_twice() -> None:
    planned = schedule(1, 600, 20, KINDS)
    assert {one.kind for one in planned[: len(KINDS)]} == set(KINDS)
    assert {one.kind for one in planned[len(KINDS) : 2 * len(KINDS)]} == set(KINDS)


def test_begin_and_end_are_quiet_and_times_rise() -> None:
    planned = schedule(1, 600, 20, KINDS)
    times = [one.at_s for one in planned]
    assert times == sorted(times)
    assert times[0] >= 600 * QUIET_BEGIN
    assert times[-1] < 600 * QUIET_END


def test_nothing_is_planned_where_nothing_can_be_done() -> None:
    assert schedule(1, 600, 20, []) == []


def test_the_gap_is_never_shorter_than_a_recovery_nor_longer_than_a_watcher_has_patience() -> None:
    assert default_gap_s(60, 20) == 12
    assert default_gap_s(36_000, 20) == 40
    assert 12 < default_gap_s(600, 20) < 40
