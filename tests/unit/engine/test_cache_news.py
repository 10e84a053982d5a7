"""What readers of load reports know of a prefix cache."""

from hypothesis import given
from hypothesis import strategies as st

from baton.v1.worker_pb2 import WorkerState
from workers.engine.cache_news import CacheNews


def _next(news: CacheNews) -> WorkerState:
    state = WorkerState()
    news.fill(state)
    return state


def test_the_first_report_tells_all_and_later_ones_changes_alone() -> None:
    news = CacheNews([1, 2])
    assert [*_next(news).added_block_hashes] == [1, 2]
    news.note([3], [1])
    second = _next(news)
    assert (second.report_number, [*second.added_block_hashes], [*second.removed_block_hashes]) == (2, [3], [1])
    assert not _next(news).added_block_hashes


def test_what_came_and_went_between_two_reports_is_not_told() -> None:
    news = CacheNews([1])
    _next(news)
    news.note([2], [1])
    news.note([1], [2])
    report = _next(news)
    assert not report.added_block_hashes
    assert not report.removed_block_hashes


@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sampled_from(["quiet", "report", "restart"]))))
def test_a_reader_holds_what_the_cache_holds(steps: list[tuple[set[int], str]]) -> None:
    cache: set[int] = set()
    news, known = CacheNews(), set[int]()
    for after, what in steps:
        news.note(after - cache, cache - after)
        cache = after
        if what == "restart":
            news.restart(cache)
        if what != "quiet":
            state = _next(news)
            known = set() if state.report_number == 1 else known - {*state.removed_block_hashes}
            known |= {*state.added_block_hashes}
            assert known == cache
