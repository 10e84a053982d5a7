import pytest

from cluster.router.report_rate import MAX_REPORTS_PER_S, report_interval_s


@pytest.mark.parametrize(
    ("num_workers", "interval_s"), [(0, 0.05), (1, 0.05), (50, 0.05), (51, 0.1), (256, 0.4), (1024, 1.0), (10**6, 1.0)]
)
def test_the_more_workers_the_less_often_each_reports(num_workers: int, interval_s: float) -> None:
    assert report_interval_s(num_workers) == pytest.approx(interval_s)


def test_all_together_stay_below_the_limit_until_the_longest_interval() -> None:
    assert all(count / report_interval_s(count) <= MAX_REPORTS_PER_S for count in range(1, 1001))
