"""Which losses what was done to the cluster explains, and which are failures."""

import pytest

from tools.soak.happening import Happening, around
from tools.soak.outcome import Ending, Outcome
from tools.soak.schedule import Kind
from tools.soak.verdict import Verdict, judge


def outcome(ending: Ending, begin_s: float = 9.0, end_s: float = 10.2, **fields: object) -> Outcome:
    common = {"number": 1, "family": "chat", "api": "chat", "manner": "stream", "request_id": "soak-1"}
    return Outcome(**(common | fields), begin_s=begin_s, end_s=end_s, ending=ending)  # type: ignore[arg-type]


def happened(kind: Kind, over_s: float | None = 15.0) -> Happening:
    return Happening(kind=kind, begin_s=10.0, over_s=over_s)


def test_a_whole_answer_is_well_only_as_known() -> None:
    assert judge(outcome(Ending.FINISHED), []) is Verdict.OK
    assert judge(outcome(Ending.FINISHED, differs="text"), []) is Verdict.WRONG


@pytest.mark.parametrize("ending", [Ending.LEFT, Ending.DEADLINE, Ending.CUT])
def test_a_wrong_beginning_is_wrong_however_it_ended(ending: Ending) -> None:
    assert judge(outcome(ending, differs="begins"), [happened(Kind.KILL_HAPROXY)]) is Verdict.WRONG


def test_clients_that_leave_are_no_loss() -> None:
    assert judge(outcome(Ending.LEFT), []) is Verdict.ENDED
    assert judge(outcome(Ending.DEADLINE), []) is Verdict.ENDED


@pytest.mark.parametrize("ending", [Ending.CUT, Ending.LOST, Ending.REFUSED, Ending.STATUS, Ending.SILENT])
def test_without_a_reason_every_loss_is_a_failure(ending: Ending) -> None:
    assert judge(outcome(ending), [happened(Kind.KILL_DECODE), happened(Kind.KILL_CONTROLLER)]) is Verdict.FAILED


def test_a_replica_takes_streams_with_it_that_had_begun_and_nothing_else() -> None:
    killed = [happened(Kind.KILL_REPLICA)]
    assert judge(outcome(Ending.CUT), killed) is Verdict.EXPECTED_LOSS
    assert judge(outcome(Ending.LOST), killed) is Verdict.FAILED
    assert judge(outcome(Ending.LOST, api="grpc"), killed) is Verdict.EXPECTED_LOSS
    assert judge(outcome(Ending.CUT, begin_s=11.0, end_s=12.0), killed) is Verdict.FAILED, "it came later"
    assert judge(outcome(Ending.CUT, begin_s=5.0, end_s=8.0), killed) is Verdict.FAILED, "it was cut before"


def test_haproxy_takes_what_it_carried_with_it_and_refuses_nobody() -> None:
    killed = [happened(Kind.KILL_HAPROXY)]
    assert judge(outcome(Ending.LOST), killed) is Verdict.EXPECTED_LOSS
    assert judge(outcome(Ending.REFUSED), killed) is Verdict.FAILED


def test_without_its_manager_connections_are_refused_until_all_is_whole_again() -> None:
    killed = [happened(Kind.KILL_PROXY_MANAGER)]
    assert judge(outcome(Ending.REFUSED, begin_s=14.0, end_s=14.1), killed) is Verdict.EXPECTED_LOSS
    assert judge(outcome(Ending.REFUSED, begin_s=16.0, end_s=16.1), killed) is Verdict.FAILED


def test_bad_requests_are_to_be_refused_as_they_must_be() -> None:
    assert judge(outcome(Ending.FINISHED, family="bad"), []) is Verdict.REJECTED
    assert judge(outcome(Ending.STATUS, family="bad", differs="500"), []) is Verdict.FAILED


def test_what_was_under_way_is_told_beside_a_failure() -> None:
    early, late = Happening(kind=Kind.SCALE, begin_s=1.0, over_s=2.0), Happening(kind=Kind.SCALE, begin_s=9.5)
    assert around([early, late, Happening(kind=Kind.SCALE, begin_s=30.0)], outcome(Ending.CUT, 20.0, 21.0)) == [late]
