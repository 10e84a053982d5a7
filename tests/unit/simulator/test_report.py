"""What a simulation comes to."""

import json
import math

import pytest

from cluster.contracts.simulation import Fault, RequestRecord, SimCluster, SimPool, SimResult
from cluster.contracts.slo import SLO
from cluster.simulator.report import Report, summarize, to_json
from tests.unit.simulator.costs import LinearLatency
from workers.spec import Role

CLUSTER = SimCluster(pools=[SimPool(role=Role.MIXED, num_workers=2, latency=LinearLatency(), num_blocks=100)])
SLO_ = SLO(ttft_s=0.2, tpot_s=0.05)


def record(index: int, *, ttft_s: float, tpot_s: float, num_outputs: int = 11) -> RequestRecord:
    return RequestRecord(
        index=index,
        arrived_s=float(index),
        num_prompt_tokens=100,
        num_output_tokens=num_outputs,
        first_token_s=index + ttft_s,
        finished_s=index + ttft_s + tpot_s * (num_outputs - 1),
        num_cached_tokens=25,
        decode_id="mixed-0",
    )


def result(*records: RequestRecord) -> SimResult:
    return SimResult(
        records=list(records),
        end_s=10.0,
        num_events=7,
        trace_hash="abc",
        busy_s={"mixed-0": 5.0, "mixed-1": 1.0},
        peak_blocks={"mixed-0": 50},
    )


def report(*records: RequestRecord) -> Report:
    return summarize(result(*records), CLUSTER, SLO_)


def failed(index: int) -> RequestRecord:
    return RequestRecord(
        index=index, arrived_s=float(index), num_prompt_tokens=100, num_output_tokens=11, error="overloaded"
    )


def test_attainment_counts_requests_that_meet_both_limits() -> None:
    found = report(
        record(0, ttft_s=0.1, tpot_s=0.01),
        record(1, ttft_s=0.3, tpot_s=0.01),
        record(2, ttft_s=0.1, tpot_s=0.06),
        record(3, ttft_s=0.1, tpot_s=0.02),
    )
    assert (found.attainment, found.ttft_attainment, found.tpot_attainment) == (0.5, 0.75, 0.75)


def test_a_request_that_failed_met_nothing_and_has_no_times() -> None:
    found = report(record(0, ttft_s=0.1, tpot_s=0.01), failed(1))
    assert (found.num_requests, found.num_finished, found.errors) == (2, 1, {"overloaded": 1})
    assert found.attainment == 0.5
    assert found.ttft.p99 == pytest.approx(100.0)


def test_percentiles_are_in_milliseconds_and_answers_of_one_token_have_no_tpot() -> None:
    found = report(record(0, ttft_s=0.1, tpot_s=0.02), record(1, ttft_s=0.2, tpot_s=0.0, num_outputs=1))
    assert (found.ttft.p50, found.ttft.mean) == (pytest.approx(150.0), pytest.approx(150.0))
    assert (found.tpot.p50, found.tpot.p99) == (pytest.approx(20.0), pytest.approx(20.0))
    assert found.e2e.p50 == pytest.approx((300.0 + 200.0) / 2)


def test_workers_are_told_with_shares_of_time_and_blocks() -> None:
    busy = report(record(0, ttft_s=0.1, tpot_s=0.01)).workers
    assert [(use.worker_id, use.busy, use.peak_blocks) for use in busy] == [
        ("mixed-0", 0.5, 0.5),
        ("mixed-1", 0.1, 0.0),
    ]


def test_the_json_is_strict_and_holds_every_record() -> None:
    outcome = result(record(0, ttft_s=0.1, tpot_s=0.01), failed(1))
    baseline = report(record(0, ttft_s=0.1, tpot_s=0.01))
    fault = Fault(kind="kill_mixed", at_s=3.0)
    found = to_json(
        summarize(outcome, CLUSTER, SLO_),
        outcome,
        seed=7,
        faults=[fault],
        without_faults=baseline,
        about={"model": "demo"},
    )
    text = json.dumps(found, allow_nan=False)
    content = json.loads(text)
    assert (content["seed"], content["trace_hash"], content["model"]) == (7, "abc", "demo")
    assert content["records"][0]["ttft_s"] == pytest.approx(0.1)
    assert content["records"][1]["ttft_s"] is None
    assert content["faults"][0]["kind"] == "kill_mixed"
    assert content["without_faults"]["attainment"] == 1.0
    assert content["ttft_ms"]["p50"] == pytest.approx(100.0)


def test_no_request_at_all_is_told_without_an_exception() -> None:
    found = report()
    assert found.attainment == 0.0
    assert math.isnan(found.ttft.p50)
