"""The search of `bench.goodput`: probes of one server at rates that bisection chooses."""

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from bench.goodput_load import Lengths
from cluster.contracts.simulation import Arrival
from cluster.contracts.slo import SLO
from cluster.load.record import Record
from cluster.planner.search.goodput import highest_rate

FIRST_SHARE = 0.6  # of the saturated rate: where a search begins
AT_ONCE = 1e6  # requests/s
PATIENT = SLO(ttft_s=1e6, tpot_s=1e6)
MIN_REQUESTS = 20  # of a probe: fewer say nothing of a tenth of them


class Server(Protocol):
    """What is asked."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer."""

    async def send(self, index: int, arrival: Arrival, record: Record) -> None:
        """One request; notes its times, or its error, in `record`. Cancelling it aborts the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """`seconds`: for how long a probe sends."""

    seconds: float
    tolerance: float  # relative, of the rate found
    slo: SLO
    seed: int

    def count(self, rate: float) -> int:
        return max(round(rate * self.seconds), MIN_REQUESTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Percentiles in ms over the requests that ended; `attainment` over all, at most that where it was cut short."""

    rate: float
    num_requests: int
    attainment: float
    is_cut: bool
    ttft_p90: float
    tpot_p90: float
    num_failed: int

    def __str__(self) -> str:
        bound = "at most " if self.is_cut else ""
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return (
            f"{self.rate:.2f}/s, {self.num_requests} requests: {bound}{self.attainment:.1%} hold both, "
            f"p90 TTFT {self.ttft_p90:.0f} ms, TPOT {self.tpot_p90:.0f} ms{failed}"
        )


@dataclass(slots=True, kw_only=True)
class Curve:
    name: str
    goodput: float = 0.0
    probes: list[Probe] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"goodput": self.goodput, "probes": [asdict(probe) for probe in self.probes]}


async def search(name: str, server: Server, lengths: Lengths, plan: Search) -> Curve:
    """From below the saturated rate on. The search runs on a thread of its own, its probes on this loop."""
    curve = Curve(name=name)
    loop = asyncio.get_running_loop()

    def attainment(rate: float) -> float:
        future: Future[Probe] = asyncio.run_coroutine_threadsafe(probe(server, lengths, plan, rate), loop)
        found = future.result()
        curve.probes.append(found)
        print(f"  {name}: {found}", flush=True)
        return found.attainment

    for _ in range(2):  # the first pays for what first steps and links take
        saturated = await saturated_rate(server, lengths, plan)
    print(f"  {name}: {saturated:.2f}/s when all is asked at once", flush=True)
    curve.goodput = await asyncio.to_thread(
        highest_rate,
        attainment,
        target=plan.slo.attainment,
        guess=saturated * FIRST_SHARE,
        tolerance=plan.tolerance,
    )
    return curve


async def saturated_rate(server: Server, lengths: Lengths, plan: Search) -> float:
    """Requests/s of some that come at once."""
    began_s = time.perf_counter()
    await probe(server, lengths, replace(plan, slo=PATIENT), AT_ONCE, count=MIN_REQUESTS)
    return MIN_REQUESTS / (time.perf_counter() - began_s)


async def probe(server: Server, lengths: Lengths, plan: Search, rate: float, *, count: int | None = None) -> Probe:
    """One rate; ends early when so many have missed that the share cannot be reached any more."""
    arrivals = lengths.arrivals(rate, count or plan.count(rate), plan.seed, server.max_model_len)
    allowed = len(arrivals) - math.ceil(plan.slo.attainment * len(arrivals) - 1e-9)
    records: list[Record] = []
    over = asyncio.Event()
    num_missed = 0

    async def one(index: int, arrival: Arrival, start_s: float) -> None:
        nonlocal num_missed
        await asyncio.sleep(max(start_s + arrival.at_s - time.perf_counter(), 0.0))
        record = Record(index=index, due_s=start_s + arrival.at_s, sent_s=time.perf_counter())
        records.append(record)
        await server.send(index, arrival, record)
        record.is_done = True
        num_missed += not is_met(plan.slo, record)
        if num_missed > allowed:
            over.set()

    start_s = time.perf_counter() + 0.1
    tasks = [asyncio.create_task(one(index, arrival, start_s)) for index, arrival in enumerate(arrivals)]
    everything = asyncio.gather(*tasks, return_exceptions=True)
    everything.add_done_callback(lambda _: over.set())
    await over.wait()
    for task in tasks:
        task.cancel()
    broken = [result for result in await everything if isinstance(result, Exception)]
    if broken:
        raise broken[0]
    return _summary(plan.slo, rate, len(arrivals), records, num_missed)


def is_met(slo: SLO, record: Record) -> bool:
    return record.is_completed and slo.is_met(record.ttft_s, record.tpot_s)


def _summary(slo: SLO, rate: float, count: int, records: Sequence[Record], num_missed: int) -> Probe:
    ended = [record for record in records if record.is_completed]
    return Probe(
        rate=rate,
        num_requests=count,
        attainment=(count - num_missed) / count,
        is_cut=sum(record.is_done for record in records) < count,
        ttft_p90=_p90_ms([record.ttft_s for record in ended]),
        tpot_p90=_p90_ms([record.tpot_s for record in ended]),
        num_failed=sum(bool(record.error) for record in records),
    )


def _p90_ms(values_s: Sequence[float]) -> float:
    return float(np.percentile(values_s or [0.0], 90)) * 1e3
