import asyncio
import time

import pytest

from bench.goodput_load import Lengths, synthetic_lengths
from bench.goodput_probe import MIN_REQUESTS, Search, probe
from cluster.contracts.simulation import Arrival
from cluster.contracts.slo import SLO
from cluster.load.record import Record

LENGTHS = Lengths(rows=[(10, 4), (300, 2)], source="made up")
PLAN = Search(seconds=0.01, tolerance=0.1, slo=SLO(ttft_s=10.0, tpot_s=10.0), seed=0)


class Instant:
    """Answers at once; every `fails`-th request with an error. Those after `hangs` never end."""

    def __init__(self, fails: int = 0, hangs: int = 1 << 20) -> None:
        self.max_model_len = 64
        self.sent: list[Arrival] = []
        self._fails, self._hangs = fails, hangs

    async def send(self, index: int, arrival: Arrival, record: Record) -> None:
        self.sent.append(arrival)
        if index >= self._hangs:
            await asyncio.sleep(3600)
        if self._fails and index % self._fails == 0:
            record.error = "refused"
            return
        record.token_s = [time.perf_counter()] * arrival.num_output_tokens
        record.output_tokens = arrival.num_output_tokens


def test_a_probe_sends_enough_requests_that_fit_the_context() -> None:
    server = Instant()
    found = asyncio.run(probe(server, LENGTHS, PLAN, 1000.0))
    assert (found.attainment, found.num_requests, found.is_cut) == (1.0, MIN_REQUESTS, False)
    assert len(server.sent) == MIN_REQUESTS
    assert max(one.num_prompt_tokens + one.num_output_tokens for one in server.sent) == server.max_model_len


def test_requests_that_fail_met_nothing() -> None:
    found = asyncio.run(probe(Instant(fails=10), LENGTHS, PLAN, 1000.0))
    assert found.num_failed == 2
    assert found.attainment == pytest.approx(0.9)


def test_a_probe_that_cannot_pass_any_more_is_cut_short() -> None:
    found = asyncio.run(probe(Instant(fails=2, hangs=10), LENGTHS, PLAN, 1000.0))
    assert found.is_cut
    assert found.attainment < 0.9


def test_an_error_of_the_bench_itself_is_raised() -> None:
    class Broken(Instant):
        async def send(self, index: int, arrival: Arrival, record: Record) -> None:
            raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        asyncio.run(probe(Broken(), LENGTHS, PLAN, 1000.0))


def test_lengths_are_scaled_and_arrivals_have_the_rate() -> None:
    lengths = synthetic_lengths(0.1, seed=0)
    arrivals = lengths.arrivals(5.0, 2000, seed=1, max_model_len=4096)
    assert arrivals[-1].at_s == pytest.approx(400, rel=0.1)
    assert sum(one.num_prompt_tokens for one in arrivals) / 2000 == pytest.approx(115.5, rel=0.1)
