"""A change on probation, and when it has failed."""

import math
from dataclasses import dataclass

from cluster.contracts.slo import SLO
from cluster.planner.online.decision import DecisionKind
from cluster.planner.online.judge import Answer
from cluster.planner.online.setup import Change, Setup

TOLERANCE = 0.05  # of attainment: measured may be so much below what was foreseen


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """
    Attributes:
        before: The fleet without the change.
        predicted: Attainment, simulated.
        measured: Attainment before it; None: nobody came.
    """

    change: Change
    before: Setup
    begun_s: float
    predicted: float
    measured: float | None

    @property
    def kind(self) -> DecisionKind:
        return DecisionKind(self.change.kind.value)

    def is_worse(self, now: float, num_requests: int, answer: Answer, slo: SLO) -> bool:
        """Than before, than foreseen, and than the old setup would be under the load that came since.

        Args:
            now: Attainment since, of so many requests.
        """
        foreseen = [self.predicted, 1.0 if self.measured is None else self.measured]
        if answer.before is not None:
            foreseen.append(answer.before.attainment)
        worst = min(foreseen)
        by_chance = math.sqrt(worst * (1 - worst) / num_requests)
        return now < worst - TOLERANCE - by_chance and now < slo.attainment

    def complaint(self, now: float, answer: Answer) -> str:
        """Why it is taken back."""
        before = f"{answer.before.attainment:.0%}" if answer.before is not None else "more"
        was = f"it was {self.measured:.0%} before, " if self.measured is not None else ""
        return (
            f"attainment is {now:.0%}; {was}{self.predicted:.0%} was foreseen, and under the load that came the fleet "
            f"as it was would reach {before}"
        )
