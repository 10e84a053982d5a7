"""Which of the changes that were simulated is worth making, if any."""

from dataclasses import dataclass

from cluster.contracts.slo import SLO
from cluster.planner.online.judge import Answer, Outcome
from cluster.planner.online.setup import Change

MARGIN, FINE_MARGIN = 0.04, 0.08  # of value that a change must gain; where the SLO holds without it
REVERSAL = 2.0  # times that, where it would take a recent change back
NEAR = 0.01  # of value: the smaller change of two that are so near


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`before`, `after`: simulated attainment."""

    change: Change
    before: float
    after: float
    remark: str = ""


def choose(answer: Answer, slo: SLO, *, content: float, measured: float | None, last: Change | None) -> Choice | None:
    """
    Args:
        content: Attainment above which nothing needs to be better, and workers may go.
        measured: Attainment of late; None: nobody came.
        last: A recent change.
    """
    if answer.now.attainment < content:
        is_fine = answer.now.attainment >= slo.attainment and (measured is None or measured >= slo.attainment)
        return _improvement(answer, FINE_MARGIN if is_fine else MARGIN, last)
    if measured is not None and measured < slo.attainment:
        return None  # it is not as well as it looks
    return _saving(answer, content, last)


def _improvement(answer: Answer, margin: float, last: Change | None) -> Choice | None:
    good = [(change, outcome) for change, outcome in answer.tried if _gains(answer, change, outcome, margin, last)]
    if not good:
        return None
    best = max(outcome.value for _, outcome in good)
    near = [(change, outcome) for change, outcome in good if outcome.value >= best - NEAR]
    change, outcome = min(near, key=lambda pair: (pair[0].adds, pair[0].count, -pair[1].value))
    return Choice(change=change, before=answer.now.attainment, after=outcome.attainment)


def _gains(answer: Answer, change: Change, outcome: Outcome, margin: float, last: Change | None) -> bool:
    """More than chance would. A worker more must be worth its while as much as a change of roles."""
    takes_back = last is not None and change.undoes(last)
    return outcome.value - answer.now.value >= margin * (REVERSAL if takes_back else 1.0)


def _saving(answer: Answer, content: float, last: Change | None) -> Choice | None:
    """One worker less, if all is still well under more load; not soon after one was added."""
    if last is not None and last.adds > 0:
        return None
    enough = [(change, outcome) for change, outcome in answer.tried if outcome.attainment >= content]
    if not enough:
        return None
    change, outcome = max(enough, key=lambda pair: pair[1].value)
    remark = ", with a fifth more requests"
    return Choice(change=change, before=answer.now.attainment, after=outcome.attainment, remark=remark)
