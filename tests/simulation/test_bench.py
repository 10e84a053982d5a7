"""The simulator's own benchmark: what it says of requests that do not finish."""

import pytest

from bench.simulator import cluster, run
from cluster.contracts.simulation import Arrival


def test_a_request_too_long_for_its_time_is_counted_by_its_error_and_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seed 0 of the million: 18,362 tokens at 40 ms each are more than 600 s, and only that request failed."""
    short = [Arrival(at_s=float(at_s), num_prompt_tokens=1000, num_output_tokens=200) for at_s in range(1, 20)]
    endless = Arrival(at_s=0.0, num_prompt_tokens=832, num_output_tokens=30_000)
    facts = run("test", cluster(2, prefix_cache=True), [endless, *short], check_every=100)
    assert facts["num_finished"] == 19
    unfinished = facts["unfinished"]
    assert isinstance(unfinished, dict)
    assert list(unfinished) == ["deadline_exceeded"]
    assert unfinished["deadline_exceeded"].startswith(
        "1; the longest, request 0, 832 tokens in and 30000 out, 1 attempt(s), takes "
    )
    assert "deadline_exceeded" in capsys.readouterr().out


def test_a_run_that_finishes_names_nobody() -> None:
    arrivals = [Arrival(at_s=0.0, num_prompt_tokens=100, num_output_tokens=2)]
    assert run("test", cluster(2, prefix_cache=False), arrivals, check_every=100)["unfinished"] == {}
