"""What the autopilot sees at one look. Plain data; all times are seconds of one clock, the looker's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from cluster.contracts.finished import CANCELLED, OK
from cluster.contracts.slo import SLO
from cluster.planner.online.setup import Setup
from workers.spec import Role

OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """One that has arrived: finished, shed, waiting or running. Demand is what arrives, not what gets done.

    Attributes:
        num_output_tokens: By now.
        ended_s: None: it is still here.
        status: open, or as in `FinishedRequest`.
    """

    arrived_s: float
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    ended_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    status: str = OPEN

    @property
    def is_whole(self) -> bool:
        """Whether its answer came to its end, so that its length is known."""
        return self.status == OK and self.num_output_tokens > 0

    def is_late(self, slo: SLO, now_s: float) -> bool:
        """It waits for its first token for longer than it should."""
        return self.status == OPEN and self.ttft_s is None and now_s - self.arrived_s > slo.ttft_s

    def was_served(self, slo: SLO) -> bool:
        if self.status not in (OK, CANCELLED) or self.ttft_s is None:
            return False
        return slo.is_met(self.ttft_s, self.tpot_s or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """Of a worker's steps since its start, named as in WorkerState: those of decodes alone, and those with prompts."""

    num_decode_steps: int = 0
    num_decode_step_sequences: int = 0  # in them, summed
    decode_steps_s: float = 0.0
    num_prompt_steps: int = 0
    num_prompt_step_tokens: int = 0  # prompt tokens that they computed
    prompt_steps_s: float = 0.0
    num_drafted: int = 0
    num_accepted: int = 0

    def since(self, before: "StepCounts") -> "StepCounts":
        """What came after `before`; all, where counting began anew."""
        if before.num_decode_steps > self.num_decode_steps or before.num_prompt_steps > self.num_prompt_steps:
            return self
        return StepCounts(**{each.name: getattr(self, each.name) - getattr(before, each.name) for each in fields(self)})

    def plus(self, other: "StepCounts") -> "StepCounts":
        return StepCounts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWorker:
    """
    Attributes:
        role: Of now.
        is_ready: It serves, and neither drains nor changes its role.
    """

    worker_id: str
    role: Role
    is_ready: bool = True
    counts: StepCounts = StepCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """
    Attributes:
        requests: That arrived or ended within the window, and all that are open; in any order.
        setup: As wanted now: workers by role, and limits.
        is_settled: All wanted workers serve in their roles.
        since_s: From when on `requests` are all there were.
        by_hand: Counts up with each change that a person made.
    """

    now_s: float
    requests: Sequence[SeenRequest]
    workers: Sequence[SeenWorker]
    setup: Setup
    is_settled: bool = True
    since_s: float = -math.inf
    by_hand: int = 0

    def mean_context(self, since_s: float) -> float:
        """Tokens of a sequence in the steps of decodes from then until now; 0 without any.

        Each counts for as long as it was there: steps are full of those that write long answers.
        """
        usual_s = [one.tpot_s for one in self.requests if one.is_whole and one.tpot_s]
        tpot_s = float(np.median(usual_s)) if usual_s else math.inf
        total = weight = 0.0
        for one in self.requests:
            if one.ttft_s is None:
                continue
            first_s = one.arrived_s + one.ttft_s
            begin_s, end_s = max(first_s, since_s), self.now_s if one.ended_s is None else one.ended_s
            there_s = max(end_s - begin_s, 0.0)
            total += there_s * (one.num_prompt_tokens + ((begin_s + end_s) / 2 - first_s) / (one.tpot_s or tpot_s))
            weight += there_s
        return total / weight if weight else 0.0

    def attainment(self, slo: SLO, since_s: float) -> float | None:
        """Of requests that arrived since: of those that ended, or wait too long already; None: of nobody."""
        arrived = [one for one in self.requests if one.arrived_s >= since_s]
        told = [one for one in arrived if one.ended_s is not None or one.is_late(slo, self.now_s)]
        return sum(one.was_served(slo) for one in told) / len(told) if told else None
