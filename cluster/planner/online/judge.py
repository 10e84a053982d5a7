"""Simulates the fleet as it is and as it might be, over the same load with the same seed.

A pure function of a picklable question, so that it may run anywhere; what its answer means is `autopilot`'s to say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.contracts.latency import LatencyModel
from cluster.contracts.simulation import Arrival, RequestRecord
from cluster.contracts.slo import SLO
from cluster.planner.online.setup import Change, Setup
from cluster.planner.online.twin import Twin
from cluster.planner.search.trial import Simulate
from workers.spec import Role

MAX_REQUESTS = 1500  # simulated for one question, after which no other kind of change is tried
SLACK = 0.2  # share of an outcome's value that is how far requests are from their limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    Attributes:
        warm_s: Requests that arrive before are served, and not counted: they find an emptier fleet than there is.
    """

    arrivals: tuple[Arrival, ...]
    warm_s: float = 0.0

    @property
    def shares_prefixes(self) -> bool:
        return any(arrival.block_hashes for arrival in self.arrivals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    Attributes:
        load: That is expected; `heavier`: some more of it, that one worker less must stand.
        past: What came of late, in the order of `load`; None: too little.
        before: The setup before the last change, to be tried with `past`; None: nothing is on probation.
        content: Attainment above which nothing needs to be better.
        moves, additions, limits: Tried in this order, the next ones where those before are not enough.
    """

    twin: Twin
    latency: Mapping[Role, LatencyModel]
    extra_s: float
    slo: SLO
    setup: Setup
    load: Load
    heavier: Load
    past: Load | None = None
    before: Setup | None = None
    content: float
    moves: Sequence[Change] = ()
    additions: Sequence[Change] = ()
    limits: Sequence[Change] = ()
    removals: Sequence[Change] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    Attributes:
        ttft_s, tpot_s: Of each request of the load, in order; inf: it never came to that.
        num_counted: The last ones, which `attainment` and `value` are of.
        value: Attainment for the most part, and how far from its limits each request is: what is compared.
    """

    attainment: float
    value: float
    num_counted: int
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    Attributes:
        now: The setup as it is, under the load that is expected.
        past: The setup as it is, under the load that came; `before`: the one before.
        tried: Changes and what they would come to.
        num_requests: Simulated in all.
    """

    now: Outcome
    past: Outcome | None
    before: Outcome | None
    tried: tuple[tuple[Change, Outcome], ...]
    num_requests: int


def judge(question: Question, simulate: Simulate) -> Answer:
    tries = _Tries(question, simulate)
    now = tries.outcome(question.setup, question.load)
    past, before = question.past, question.before
    tried = tries.removals() if now.attainment >= question.content else tries.improvements()
    return Answer(
        now=now,
        past=tries.outcome(question.setup, past) if past is not None else None,
        before=tries.outcome(before, past) if past is not None and before is not None else None,
        tried=tuple(tried),
        num_requests=tries.num_requests,
    )


class _Tries:
    def __init__(self, question: Question, simulate: Simulate) -> None:
        self.num_requests = 0
        self._question = question
        self._simulate = simulate

    def removals(self) -> list[tuple[Change, Outcome]]:
        return self._of(self._question.removals, self._question.heavier)

    def improvements(self) -> list[tuple[Change, Outcome]]:
        """Until one of them is enough: what costs nothing first."""
        question, tried = self._question, list[tuple[Change, Outcome]]()
        for changes in (question.moves, question.additions, question.limits):
            tried += self._in_steps(changes)
            if self._is_enough(tried) or self.num_requests > MAX_REQUESTS:
                break
        return tried

    def _in_steps(self, changes: Sequence[Change]) -> list[tuple[Change, Outcome]]:
        """The smallest change each way, then more of the one that does most, where it is not enough."""
        smallest = [one for one in changes if one.count == 1]
        tried = self._of(smallest, self._question.load)
        if len(smallest) == len(changes) or self._is_enough(tried):
            return tried
        best = max(tried, key=lambda pair: pair[1].value, default=None)
        larger = [one for one in changes if one.count > 1 and (best is None or one.has_way_of(best[0]))]
        return tried + self._of(larger, self._question.load)

    def _is_enough(self, tried: Sequence[tuple[Change, Outcome]]) -> bool:
        return any(outcome.attainment >= self._question.content for _, outcome in tried)

    def _of(self, changes: Sequence[Change], load: Load) -> list[tuple[Change, Outcome]]:
        return [(change, self.outcome(change.of(self._question.setup), load)) for change in changes]

    def outcome(self, setup: Setup, load: Load) -> Outcome:
        question, arrivals = self._question, load.arrivals
        cluster = question.twin.cluster(
            setup, question.latency, extra_s=question.extra_s, shares_prefixes=load.shares_prefixes
        )
        records = self._simulate(cluster, arrivals, seed=question.seed).records if arrivals else []
        self.num_requests += len(records)
        times = [_times(record) for record in records]
        late = [pair for pair, record in zip(times, records, strict=True) if record.arrived_s >= load.warm_s]
        counted = late or times
        return Outcome(
            attainment=float(np.mean([question.slo.is_met(*pair) for pair in counted])) if counted else 1.0,
            value=_value(question.slo, counted),
            num_counted=len(counted),
            ttft_s=tuple(ttft_s for ttft_s, _ in times),
            tpot_s=tuple(tpot_s for _, tpot_s in times),
        )


def _times(record: RequestRecord) -> tuple[float, float]:
    if record.error:
        return math.inf, math.inf
    pair = (record.ttft_s, record.tpot_s)
    return pair if not any(map(math.isnan, pair)) else (math.inf, math.inf)


def _value(slo: SLO, times: Sequence[tuple[float, float]]) -> float:
    """In [0, 1]. Where nobody is served well, or all are, nearer to the limits is still worse."""
    if not times:
        return 1.0
    met = sum(slo.is_met(*pair) for pair in times)
    slack = sum(1 / (1 + max(ttft_s / slo.ttft_s, tpot_s / slo.tpot_s)) for ttft_s, tpot_s in times)
    return ((1 - SLACK) * met + SLACK * slack) / len(times)
