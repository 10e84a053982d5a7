"""When a worker has something to say to one ingress."""

import pytest

from baton.v1.worker_pb2 import FromWorker, Histogram, Measures, ReportWish, TokenOutput, WorkerState
from workers.engine.cache_news import CacheNews
from workers.sessions import HEARTBEAT_S, MAX_QUEUED_REPORTS, MIN_REPORT_S, IngressSession

BUSY = WorkerState(num_running=3)


def _session() -> IngressSession:
    """Connected at 0, its first state sent."""
    session = IngressSession(ingress_id="i", cache=CacheNews())
    session.report(WorkerState(), 0.0)
    return session


def _state() -> WorkerState:
    return WorkerState(num_running=BUSY.num_running)


def _last(session: IngressSession) -> FromWorker:
    message = session.messages.get_nowait()
    assert message is not None
    assert session.messages.empty()
    return message


def test_a_worker_without_news_says_that_it_lives() -> None:
    session = _session()
    assert session.due_s == HEARTBEAT_S
    session.tell(_state, session.due_s, is_waiting=False)
    assert _last(session) == FromWorker()
    assert session.due_s == 2 * HEARTBEAT_S


def test_a_worker_whose_step_does_not_end_tells_it_without_other_news() -> None:
    session = _session()
    session.tell(_state, session.due_s, is_waiting=True)
    assert _last(session).state.num_running == BUSY.num_running


@pytest.mark.parametrize(
    ("wished_s", "interval_s"), [(0.0, MIN_REPORT_S), (0.4, 0.4), (1e-9, MIN_REPORT_S), (60.0, HEARTBEAT_S)]
)
def test_news_is_due_after_the_interval_that_the_ingress_wishes(wished_s: float, interval_s: float) -> None:
    session = _session()
    session.wish(ReportWish(interval_s=wished_s))
    session.has_changed = True
    assert session.due_s == interval_s
    session.tell(_state, interval_s, is_waiting=True)
    assert _last(session).state.report_number == 2
    assert not session.has_changed


def test_news_that_cannot_wait_is_due_at_once() -> None:
    session = _session()
    session.wish(ReportWish(interval_s=1.0))
    session.has_changed = True
    session.hurry()
    assert session.due_s <= 0.0


def test_a_report_that_is_due_rides_with_tokens() -> None:
    session = _session()
    session.has_changed = True
    session.send([TokenOutput(request_id="r")], _state, MIN_REPORT_S / 2)
    assert not _last(session).HasField("state")
    session.send([TokenOutput(request_id="r")], _state, MIN_REPORT_S)
    message = _last(session)
    assert message.outputs.outputs[0].request_id == "r"
    assert message.state.num_running == BUSY.num_running
    assert session.due_s == MIN_REPORT_S + HEARTBEAT_S


def test_an_ingress_that_reads_late_gets_no_reports_on_top() -> None:
    session = _session()
    for _ in range(MAX_QUEUED_REPORTS + 10):
        session.has_changed = True
        session.tell(_state, session.due_s, is_waiting=True)
    assert session.messages.qsize() == MAX_QUEUED_REPORTS + 1
    assert session.has_changed


def test_measures_ride_with_one_report_and_are_left_out_until_there_are_newer_ones() -> None:
    session = _session()
    session.measures = Measures(batch_tokens=Histogram(sum=3.0))
    told = [session.report(_state(), float(second)) for second in range(3)]
    assert [state.HasField("measures") for state in told] == [True, False, False]
    assert told[0].measures.batch_tokens.sum == 3.0
