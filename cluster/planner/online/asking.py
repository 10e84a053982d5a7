"""Makes the question that a look asks: the load that is expected, the load that was, and the changes to try."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.config.schema import PlannerConfig
from cluster.contracts.slo import SLO
from cluster.planner.online.calibration import Calibration
from cluster.planner.online.candidates import Bounds, additions, limits, removals, role_changes
from cluster.planner.online.forecast import Forecaster
from cluster.planner.online.judge import Load, Question
from cluster.planner.online.observation import Observation, SeenRequest
from cluster.planner.online.sampling import cut, num_for, replayed, sampled, with_answers
from cluster.planner.online.setup import Change, Setup
from cluster.planner.online.twin import Twin
from workers.spec import SERVING_ROLES

MIN_REQUESTS = 20  # of the window, before anything is concluded from it
LEAST_SIMULATED, MAX_REQUESTS = 200, 240  # requests of one simulation: of fewer, chance decides
MAX_PAST = 240
MAX_BACKLOG = 100  # waiting requests with which a simulation begins
STAYS = 2.5  # a simulation lasts so many times what a request stays
WARM = 0.4  # share of it after which requests count
HEAVIER = 1.2  # load that one worker less must stand
LIMITS_AT_ONCE = 3  # changes of limits that are tried at one look, in turns

Whole = Sequence[tuple[SeenRequest, int]]  # requests in order of arrival, with the lengths of their answers


@dataclass(slots=True, kw_only=True)
class Asking:
    config: PlannerConfig
    slo: SLO
    bounds: Bounds
    twin: Twin
    calibration: Calibration
    started_s: float  # when arrivals began to be seen
    seed: int
    rate: float = 0.0  # requests/s of late
    expected: float = 0.0
    past: Sequence[SeenRequest] = ()  # of the last question, as simulated
    _num_looks: int = 0
    _forecaster: Forecaster = field(init=False)

    def __post_init__(self) -> None:
        self._forecaster = Forecaster(self.config.window_s, self.config.interval_s)

    @property
    def content(self) -> float:
        """Attainment that leaves room for what a forecast misses."""
        return (1 + self.slo.attainment) / 2

    def forecast(self, seen: Observation) -> None:
        """Until the next change could follow."""
        self._num_looks += 1
        since_s = max(self.started_s, seen.since_s, seen.now_s - self.config.window_s)
        arrived = [one.arrived_s for one in seen.requests if one.arrived_s >= since_s]
        span_s = seen.now_s - since_s
        self.rate = len(arrived) / span_s if span_s > 0 else 0.0
        ahead_s = self.config.cooldown_s + self.config.interval_s
        self.expected = self._forecaster.rate(arrived, seen.now_s, ahead_s, since_s=since_s)

    def question(
        self,
        seen: Observation,
        *,
        settled_s: float,
        before: Setup | None,
        may_change: bool,
        is_bad: bool,
        allowed: Callable[[Sequence[Change]], list[Change]],
    ) -> Question:
        """
        Args:
            settled_s: Since then the fleet is as it is.
            before: What it was before a change on probation.
            may_change: Changes are to be tried.
            is_bad: The SLO was not met of late.
            allowed: Those of some changes that are not banned.
        """
        begin_s = seen.now_s - self.config.window_s
        ordered = sorted(seen.requests, key=lambda one: one.arrived_s)
        known = with_answers(ordered, np.random.default_rng(self.seed + self._num_looks))
        whole = [pair for pair in known if pair[0].arrived_s >= begin_s]
        # Those that came before the window and ended in it are there when the others come.
        past = [pair for pair in known if pair[0].arrived_s >= settled_s and self._fits(pair)][-MAX_PAST:]
        self.past = [one for one, _ in past]
        tries = may_change and len(whole) >= MIN_REQUESTS
        setup, bounds = seen.setup, self.bounds
        return Question(
            twin=self.twin,
            latency={role: self.calibration.latency_of(role) for role in SERVING_ROLES if setup.count(role)},
            extra_s=self.calibration.correction.extra_s,
            slo=self.slo,
            setup=setup,
            load=self._load(seen, whole, 1.0),
            heavier=self._load(seen, whole, HEAVIER),
            past=Load(arrivals=replayed(past, block_size=self.twin.block_size)) if len(past) >= MIN_REQUESTS else None,
            before=before,
            content=self.content,
            moves=allowed(role_changes(setup, bounds)) if tries else (),
            additions=allowed(additions(setup, bounds)) if tries else (),
            limits=self._limits(seen, is_bad, allowed) if tries else (),
            removals=allowed(removals(setup, bounds)) if may_change else (),
            seed=self.seed,
        )

    def _fits(self, pair: tuple[SeenRequest, int]) -> bool:
        return pair[0].num_prompt_tokens + pair[1] <= self.twin.max_tokens

    def _load(self, seen: Observation, whole: Whole, times: float) -> Load:
        """That is expected, after those that wait now."""
        rate = self.expected * times
        stays = [one.ended_s - one.arrived_s for one, _ in whole if one.is_whole and one.ended_s is not None]
        horizon_s = max(STAYS * float(np.mean(stays)) if stays else 0.0, 10 * self.slo.ttft_s)
        arrivals = sampled(
            whole,
            rate=rate,
            num_requests=num_for(rate, horizon_s, LEAST_SIMULATED, MAX_REQUESTS),
            block_size=self.twin.block_size,
            seed=self.seed + self._num_looks,
        )
        waiting = [pair for pair in whole if pair[0].ended_s is None and pair[0].ttft_s is None][:MAX_BACKLOG]
        backlog = [replace(one, at_s=0.0) for one in replayed(waiting, block_size=self.twin.block_size)]
        warm_s = WARM * arrivals[-1].at_s if arrivals else 0.0
        return Load(arrivals=cut((*backlog, *arrivals), self.twin.max_tokens), warm_s=warm_s)

    def _limits(
        self, seen: Observation, is_bad: bool, allowed: Callable[[Sequence[Change]], list[Change]]
    ) -> list[Change]:
        num_open = sum(one.ended_s is None for one in seen.requests) // self.twin.num_ingresses
        found = allowed(limits(seen.setup, self.bounds, num_open=num_open, is_overloaded=is_bad))
        first = self._num_looks * LIMITS_AT_ONCE % max(len(found), 1)
        return [*found[first:], *found[:first]][:LIMITS_AT_ONCE]
