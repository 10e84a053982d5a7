"""What a plan does when there is more load than planned, or a worker less."""

from dataclasses import dataclass, replace
from functools import partial

from cluster.planner.search.layouts import Map
from cluster.planner.search.placement import Layout
from cluster.planner.search.refine import Plan
from cluster.planner.search.trial import Question, run_layout
from workers.spec import Role

MORE_LOAD = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Attributes:
    attainment: With the trouble all the time, nothing replaced.
    note: What happens beyond slower answers; empty if nothing.
    """

    name: str
    attainment: float
    meets: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """`margin`: by how much of the rate the goodput is above it."""

    margin: float
    troubles: tuple[Trouble, ...]


def examine(question: Question, plan: Plan, run: Map = map) -> Robustness:
    """The plan at 20 % more requests, and without one worker of each pool."""
    roles = (None, *(pool.role for pool in plan.layout.pools))
    troubles = tuple(run(partial(_meet, question, plan), roles))
    return Robustness(margin=plan.goodput / question.rate - 1, troubles=troubles)


def _meet(question: Question, plan: Plan, lost: Role | None) -> Trouble:
    """Without a worker of the role `lost`; None: with all of them, and more load."""
    if lost is None:
        name, note = f"{MORE_LOAD - 1:.0%} more requests".replace("%", " %"), ""
        attainment = run_layout(question, plan.layout, question.rate * MORE_LOAD).attainment
    else:
        name = f"one {lost} worker lost"
        attainment, note = _without_one(question, plan, lost)
    return Trouble(name=name, attainment=attainment, meets=attainment >= question.slo.attainment, note=note)


def _without_one(question: Question, plan: Plan, role: Role) -> tuple[float, str]:
    """Attainment over all clusters, of which one has lost a worker."""
    layout, num_clusters = plan.layout, plan.layout.num_replicas
    hit, note = _less_one(replace(layout, num_replicas=1), role)
    attained = run_layout(question, hit, question.rate / num_clusters).attainment if hit else 0.0
    return (attained + (num_clusters - 1) * plan.outcome.attainment) / num_clusters, note


def _less_one(layout: Layout, role: Role) -> tuple[Layout | None, str]:
    pool = layout.pool(role)
    assert pool is not None
    if pool.num_workers > 1:
        fewer = replace(pool, num_workers=pool.num_workers - 1)
        return replace(layout, pools=tuple(fewer if one is pool else one for one in layout.pools)), ""
    decode = layout.pool(Role.DECODE)
    if role is Role.PREFILL and decode is not None:
        alone = replace(decode, shape=replace(decode.shape, role=Role.MIXED))
        return replace(layout, pools=(alone,)), "decode workers read the prompts meanwhile"
    return None, f"it is the only {role} worker: nothing is served until it is replaced"
