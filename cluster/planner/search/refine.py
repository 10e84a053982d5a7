"""Simulates whole layouts: how many workers they really need, what they serve at most, what is left of them in trouble.

Counts from the phases apart leave out what the phases do to each other, and that several workers share bursts better
than one. So a layout grows while its simulation misses the SLO, in the pool that misses more, and shrinks while it
does not need a worker.
"""

from dataclasses import dataclass, replace
from math import log, log1p

from cluster.planner.search.goodput import highest_rate
from cluster.planner.search.placement import KVDemand, Layout, PoolPlan, kv_demand, nodes_needed
from cluster.planner.search.trial import Outcome, Question, run_layout
from workers.spec import Role

MAX_STEPS = 10
STEP_SHARE = 0.06  # of a pool's workers that come or go at once; one at least
CLOSE = 0.03  # goodputs nearer than this are told apart by noise
SPARE = 0.01  # attainment above the target that a layout must keep to be made smaller: a trial's own spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A layout, simulated at the rate asked for.

    Attributes:
        goodput: Requests/s of the whole layout; 0 where it was not asked for.
        meets: The SLO holds at the rate, on devices that are there.
    """

    layout: Layout
    outcome: Outcome
    kv: KVDemand
    num_nodes: int
    meets: bool
    goodput: float = 0.0

    @property
    def goodput_per_device(self) -> float:
        return self.goodput / self.layout.num_devices

    @property
    def order(self) -> tuple[bool, int, bool, int, bool, float]:
        """Sorts plans, best first.

        Fewest devices, then those that can be started now, then the most goodput; where that differs by no more than
        noise, one pool is simpler than two.
        """
        rough = round(log(self.goodput) / log1p(CLOSE)) if self.goodput > 0 else 0
        split, missing = self.layout.is_disaggregated, bool(self.layout.missing_features)
        return (not self.meets, self.layout.num_devices, missing, -rough, split, -self.goodput)


def refine(question: Question, layout: Layout, *, with_goodput: bool = True) -> Plan:
    """The layout with as many workers as it needs, or as many as there are devices for."""
    plan = _grow(question, layout)
    if not plan.meets:
        return plan
    plan = _shrink(question, plan)
    return replace(plan, goodput=measure_goodput(question, plan)) if with_goodput else plan


def confirm(question: Question, plan: Plan) -> Plan:
    """The same layout under a longer trial, or a larger one where that shows that it needs more."""
    confirmed = _grow(question, plan.layout)
    if confirmed.meets and confirmed.layout != plan.layout:
        return replace(confirmed, goodput=measure_goodput(question, confirmed))
    return replace(confirmed, goodput=plan.goodput)


def measure_goodput(question: Question, plan: Plan) -> float:
    return highest_rate(
        lambda rate: run_layout(question, plan.layout, rate).attainment,
        target=question.slo.attainment,
        guess=question.rate * 1.15,
        low=question.rate if plan.meets else 0.0,
        ceiling=max(plan.layout.bound, question.rate),
    )


def simulate_plan(question: Question, layout: Layout) -> Plan:
    outcome = run_layout(question, layout, question.rate)
    is_met = outcome.attainment >= question.slo.attainment
    return Plan(
        layout=layout,
        outcome=outcome,
        kv=kv_demand(
            layout,
            rate=question.rate,
            mean_prompt=question.mean_prompt,
            token_bytes=question.costs.token_bytes,
            state_bytes=question.costs.state_bytes,
            site=question.site,
        ),
        num_nodes=nodes_needed(layout, question.site.devices_per_node),
        meets=is_met and _has_room(question, layout),
    )


def _has_room(question: Question, layout: Layout) -> bool:
    site = question.site
    return layout.num_devices <= site.num_devices and nodes_needed(layout, site.devices_per_node) <= site.num_nodes


def _grow(question: Question, layout: Layout) -> Plan:
    while not _has_room(question, layout):
        smaller = _fewer(layout)
        if smaller is None:
            return simulate_plan(question, layout)
        layout = smaller
    plan = simulate_plan(question, layout)
    for _ in range(MAX_STEPS):
        if plan.meets:
            break
        larger = _more(plan)
        if not _has_room(question, larger):
            shifted = _fewer(larger, kept=_by_slack(plan)[-1])
            if shifted is None or not _has_room(question, shifted):
                break
            larger = shifted
        plan = simulate_plan(question, larger)
    return plan


def _shrink(question: Question, plan: Plan) -> Plan:
    tried = 0
    for role in _by_slack(plan):
        while tried < MAX_STEPS:
            smaller = _changed(plan.layout, role, -1)
            if smaller is None or smaller.bound < question.rate:
                break
            tried += 1
            attempt = simulate_plan(question, smaller)
            if not attempt.meets or attempt.outcome.attainment < min(question.slo.attainment + SPARE, 1.0):
                break
            plan = attempt
    return plan


def _by_slack(plan: Plan) -> list[Role]:
    """Pools, the one that misses least first."""
    roles = [pool.role for pool in plan.layout.pools]
    return sorted(roles, key=lambda role: -_attainment_of(plan.outcome, role))


def _attainment_of(outcome: Outcome, role: Role) -> float:
    return {
        Role.PREFILL: outcome.ttft_attainment,
        Role.DECODE: outcome.tpot_attainment,
        Role.MIXED: outcome.attainment,
    }[role]


def _more(plan: Plan) -> Layout:
    role = _by_slack(plan)[-1]
    larger = _changed(plan.layout, role, 1)
    assert larger is not None, "growing always goes"
    return larger


def _fewer(layout: Layout, *, kept: Role | None = None) -> Layout | None:
    """One step less where most devices go, but not of pool `kept`; None when nothing can go."""
    roles = [pool.role for pool in sorted(layout.pools, key=lambda pool: -pool.num_devices) if pool.role is not kept]
    return next((smaller for role in roles if (smaller := _changed(layout, role, -1)) is not None), None)


def _changed(layout: Layout, role: Role, sign: int) -> Layout | None:
    """A step more or less of one pool, of all clusters where there are several; None below one."""
    if layout.within_node:
        count = layout.num_replicas + sign * _step(layout.num_replicas)
        return replace(layout, num_replicas=count) if count >= 1 else None
    changed = tuple(_with_count(pool, sign) if pool.role is role else pool for pool in layout.pools)
    return replace(layout, pools=changed) if all(pool.num_workers >= 1 for pool in changed) else None


def _step(count: int) -> int:
    return max(1, round(count * STEP_SHARE))


def _with_count(pool: PoolPlan, sign: int) -> PoolPlan:
    return replace(pool, num_workers=pool.num_workers + sign * _step(pool.num_workers))
