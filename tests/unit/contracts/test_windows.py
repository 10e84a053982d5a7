"""What was served well over the last minutes."""

from cluster.contracts.windows import SLICE_S, SLOWindows


def test_a_window_holds_what_ended_within_it() -> None:
    windows = SLOWindows(started_s=0.0)
    for at_s, is_met in ((10.0, False), (400.0, True), (690.0, True), (695.0, False)):
        windows.note(at_s, is_met=is_met)
    minute, all_of_it = windows.over(60.0, 700.0), windows.over(3600.0, 700.0)
    assert (minute.num_requests, minute.attainment, minute.goodput) == (2, 0.5, 1 / 60)
    assert (all_of_it.num_requests, all_of_it.attainment, all_of_it.over_s) == (4, 0.5, 700.0)


def test_without_requests_there_is_no_attainment() -> None:
    windows = SLOWindows(started_s=0.0)
    assert windows.over(60.0, 0.0).attainment is None
    windows.note(1.0, is_met=True)
    assert windows.over(60.0, 1000.0).attainment is None
    assert windows.over(60.0, 1000.0).goodput == 0.0


def test_what_it_keeps_is_bounded() -> None:
    windows = SLOWindows(started_s=0.0)
    for number in range(10_000):
        windows.note(number * SLICE_S, is_met=True)
    assert windows.over(1e9, 50_000.0).num_requests == 4321
