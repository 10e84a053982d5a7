"""What ingress replicas told, on the controller's clock."""

from dataclasses import replace

import pytest

from cluster.contracts.demand import DemandReport, OpenRequest
from cluster.contracts.finished import FinishedRequest
from cluster.fleet import demand
from cluster.fleet.demand import SILENCE_S, Demand

ONE = FinishedRequest(
    request_id="r",
    model="m",
    route="chat",
    status="ok",
    arrived_s=1000.0,
    ended_s=1001.0,
    num_choices=1,
    num_prompt_tokens=10,
    num_cached_tokens=4,
    num_output_tokens=5,
    ttft_s=0.1,
    tpot_s=0.2,
)
WAITS = OpenRequest(arrived_s=999.0, num_prompt_tokens=7, num_cached_tokens=0, num_output_tokens=0, ttft_s=None)


def test_times_are_brought_to_the_controllers_clock() -> None:
    seen = Demand(0.0)
    seen.take(DemandReport(ingress_id="a", now_s=1001.5, finished=(ONE,), open=(WAITS,)), 51.5)
    (ended, waits), since_s = seen.requests(52.0, 300.0)
    assert (ended.arrived_s, ended.ended_s, ended.ttft_s) == (50.0, 51.0, 0.1)
    assert (waits.arrived_s, waits.ended_s, waits.status) == (49.0, None, "open")
    assert since_s == 0.0


def test_each_replica_tells_of_its_own_open_requests_and_is_forgotten_when_silent() -> None:
    seen = Demand(0.0)
    for name in ("a", "b"):
        seen.take(DemandReport(ingress_id=name, now_s=1000.0, open=(WAITS,)), 0.0)
    seen.take(DemandReport(ingress_id="a", now_s=1001.0), 1.0)
    assert seen.num_replicas == 2
    assert len(seen.requests(1.0, 300.0)[0]) == 1
    assert seen.requests(SILENCE_S + 0.5, 300.0)[0] == []
    assert seen.num_replicas == 1


def test_what_ended_before_the_window_is_forgotten() -> None:
    seen = Demand(0.0)
    seen.take(DemandReport(ingress_id="a", now_s=1001.0, finished=(ONE,)), 100.0)
    assert len(seen.requests(101.0, 30.0)[0]) == 1
    assert seen.requests(131.0, 30.0)[0] == []


def test_choices_count_apart_and_share_their_prompt() -> None:
    seen, two = Demand(0.0), replace(ONE, num_choices=2, num_output_tokens=8)
    seen.take(DemandReport(ingress_id="a", now_s=1001.0, finished=(two,)), 0.0)
    first, second = seen.requests(1.0, 300.0)[0]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (4, 10)
    assert first.num_output_tokens == second.num_output_tokens == 4


def test_of_more_than_is_kept_the_window_gets_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Demand(0.0)
    many = tuple(replace(ONE, arrived_s=1000.0 + i, ended_s=1001.0 + i) for i in range(10))
    monkeypatch.setattr(demand, "MAX_KEPT", 4)
    seen.take(DemandReport(ingress_id="a", now_s=1011.0, finished=many), 11.0)
    requests, since_s = seen.requests(11.0, 300.0)
    assert len(requests) == 4
    assert since_s == 6.0


def test_a_report_that_lacks_some_begins_the_window_anew() -> None:
    seen = Demand(0.0)
    seen.take(DemandReport(ingress_id="a", now_s=1001.0, finished=(ONE,), is_whole=False), 40.0)
    assert seen.requests(40.0, 300.0)[1] == 40.0
