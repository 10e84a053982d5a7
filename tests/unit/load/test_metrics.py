"""The figures of a run, worked out by hand."""

import pytest

from cluster.load.metrics import summarize
from cluster.load.record import Record


def _record(sent_s: float, token_s: list[float], *, output_tokens: int, error: str = "", done: bool = True) -> Record:
    return Record(
        index=0,
        due_s=sent_s,
        sent_s=sent_s,
        token_s=token_s,
        prompt_tokens=10,
        output_tokens=output_tokens,
        error=error,
        is_done=done,
    )


# TTFT 100 and 300 ms; gaps 50, 150 and 40 ms; E2EL 300 and 340 ms; the second brings 3 tokens in 2 messages.
FAST = _record(1.0, [1.1, 1.15, 1.3], output_tokens=3)
SLOW = _record(2.0, [2.3, 2.34], output_tokens=3)
FAILED = _record(3.0, [3.5], output_tokens=1, error="HTTP 500: no")
RUNNING = _record(4.0, [4.5], output_tokens=1, done=False)


def test_latencies_are_those_of_completed_requests() -> None:
    result = summarize([FAST, SLOW, FAILED, RUNNING], duration_s=4.0, goodput={})
    assert (result["completed"], result["failed"], result["interrupted"]) == (2, 1, 1)
    assert result["mean_ttft_ms"] == pytest.approx(200)
    assert result["median_ttft_ms"] == pytest.approx(200)
    assert result["std_ttft_ms"] == pytest.approx(100)
    assert result["p90_ttft_ms"] == pytest.approx(280)
    assert result["mean_tpot_ms"] == pytest.approx((100 + 20) / 2)
    assert result["mean_itl_ms"] == pytest.approx((50 + 150 + 40) / 3)
    assert result["p50_itl_ms"] == result["median_itl_ms"] == pytest.approx(50)
    assert result["mean_e2el_ms"] == pytest.approx(320)
    assert result["p99_e2el_ms"] == pytest.approx(339.6)


def test_throughputs_count_completed_requests_over_the_duration() -> None:
    result = summarize([FAST, SLOW, FAILED], duration_s=4.0, goodput={})
    assert result["duration"] == 4.0
    assert result["total_input_tokens"] == 20
    assert result["total_output_tokens"] == 6
    assert result["request_throughput"] == 0.5
    assert result["output_throughput"] == 1.5
    assert result["total_token_throughput"] == 6.5
    assert result["error_counts"] == {"HTTP 500: no": 1}


@pytest.mark.parametrize(
    ("goodput", "expected"),
    [
        ({}, None),
        ({"ttft": 100.1}, 0.25),
        ({"ttft": 500.0, "tpot": 20.1}, 0.25),
        ({"ttft": 500.0, "tpot": 100.1}, 0.5),
        ({"ttft": 200.0, "tpot": 50.0}, 0.0),
        ({"e2el": 320.0}, 0.25),
    ],
)
def test_goodput_counts_requests_that_meet_every_target(goodput: dict[str, float], expected: float | None) -> None:
    assert summarize([FAST, SLOW], duration_s=4.0, goodput=goodput)["request_goodput"] == expected


def test_a_single_token_has_no_tpot_but_meets_its_target() -> None:
    single = _record(1.0, [1.2], output_tokens=1)
    result = summarize([single, FAST], duration_s=1.0, goodput={"tpot": 1.0})
    assert result["mean_tpot_ms"] == pytest.approx(100)
    assert result["request_goodput"] == 1.0


def test_a_late_send_is_measured_from_when_it_was_due() -> None:
    late = _record(1.0, [1.2], output_tokens=1)
    late.due_s = 0.75
    assert summarize([late], duration_s=1.0, goodput={})["p99_send_lag_ms"] == pytest.approx(250)


def test_nothing_completed_gives_zeros() -> None:
    result = summarize([FAILED], duration_s=1.0, goodput={"ttft": 1.0})
    assert result["completed"] == 0
    assert result["mean_ttft_ms"] == result["p99_itl_ms"] == result["request_goodput"] == 0.0


def test_every_field_of_vllms_benchmark_is_there() -> None:
    result = summarize([FAST], duration_s=1.0, goodput={})
    names = {
        f"{s}_{m}_ms" for s in ("mean", "median", "std", "p50", "p90", "p99") for m in ("ttft", "tpot", "itl", "e2el")
    }
    names |= {"completed", "failed", "duration", "total_input_tokens", "total_output_tokens", "request_throughput"}
    names |= {"request_goodput", "output_throughput", "total_token_throughput"}
    assert names <= result.keys()
