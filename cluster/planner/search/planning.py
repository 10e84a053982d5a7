"""One question, one answer: the plans that hold the SLO at the rate, best first, or why there are none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from baton.errors import ConfigError
from cluster.planner.search.candidates import Candidate, FoundCandidates, Options, find
from cluster.planner.search.layouts import Map, Scored, colocated, high_affinity, low_affinity, search_phase
from cluster.planner.search.placement import KVDemand, Layout, kv_demand, num_workers
from cluster.planner.search.refine import Plan, confirm, measure_goodput, refine
from cluster.planner.search.robustness import Robustness, examine
from cluster.planner.search.trial import Question
from workers.spec import Role

NUM_ALTERNATIVES = 2  # layouts of each kind that are simulated as wholes, beside the best that can be started now


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """Attributes:
    plans: Those that meet the SLO, best first.
    across_nodes: What KV would need between nodes if workers of the best shapes lay anywhere; None where only
        co-located workers meet the SLO.
    num_candidates: Kinds of workers considered; `scored` were simulated, bounds ruled the others out.
    colocated_because: See `Options`.
    tried_drafts: Workers with a draft worker of their own were among them.
    """

    plans: tuple[Plan, ...]
    robustness: Robustness
    across_nodes: KVDemand | None
    scored: tuple[Scored, ...]
    num_candidates: int
    colocated_because: str = ""
    tried_drafts: bool = False

    @property
    def best(self) -> Plan:
        return self.plans[0]

    @property
    def best_colocated(self) -> Plan | None:
        return next((plan for plan in self.plans if not plan.layout.is_disaggregated), None)

    @property
    def best_disaggregated(self) -> Plan | None:
        return next((plan for plan in self.plans if plan.layout.is_disaggregated), None)

    @property
    def best_drafted(self) -> Plan | None:
        return next((plan for plan in self.plans if plan.layout.draft), None)

    @property
    def best_undrafted(self) -> Plan | None:
        return next((plan for plan in self.plans if not plan.layout.draft), None)

    @property
    def num_scored(self) -> int:
        return len(self.scored)


def answer(
    question: Question, options: Options, *, run: Map = map, note: Callable[[str], None] = lambda text: None
) -> PlanAnswer:
    """Searches, verifies and examines.

    Args:
        run: `map`, or a pool of processes' own.
        note: Told what is under way.
    Raises:
        ConfigError: No worker fits a device, or nothing meets the SLO: which limit, and what comes closest.
    """
    found = {role: find(question, options, role) for role in (Role.PREFILL, Role.DECODE, Role.MIXED)}
    check_fits(question, options, found[Role.MIXED])
    check_idle(question, found)
    rough = replace(question, effort=question.scoring)
    scored: dict[Role, list[Scored]] = {}
    for role, one in found.items():
        if options.colocated_because and role is not Role.MIXED:
            scored[role] = []
            continue
        note(f"{role}: {len(one.candidates)} kinds of workers, {len(one.promising)} meet the SLO when idle")
        scored[role] = _search(rough, one.promising, run)
    layouts, across = _disaggregated(rough, found, scored, run, note)
    mixed = [colocated(one.candidate, num_workers(question.rate, one.goodput)) for one in scored[Role.MIXED]]
    finalists = [*_chosen(layouts), *_chosen(mixed)]
    note(f"simulating {len(finalists)} whole plans")
    plans = _confirmed(question, list(run(partial(refine, question), finalists)), note)
    meeting = tuple(plan for plan in plans if plan.meets)
    if not meeting:
        raise ConfigError(_too_little(question, plans))
    note("looking at the best plan under more load and with workers lost")
    return PlanAnswer(
        plans=meeting,
        robustness=examine(replace(question, effort=question.verifying), meeting[0], run),
        across_nodes=across,
        scored=tuple(one for many in scored.values() for one in many),
        num_candidates=sum(len(one.candidates) for one in found.values()),
        colocated_because=options.colocated_because,
        tried_drafts=bool(options.drafts),
    )


def _confirmed(question: Question, plans: list[Plan], note: Callable[[str], None]) -> list[Plan]:
    """Best first; the first has held out a longer trial, if any does."""
    longer = replace(question, effort=question.verifying)
    confirmed: list[Plan] = []
    while True:
        plans.sort(key=lambda plan: plan.order)
        if not plans or not plans[0].meets or any(plans[0] is plan for plan in confirmed):
            return plans
        note(f"verifying {plans[0].layout}")
        plans[0] = confirm(longer, plans[0])
        confirmed.append(plans[0])


def _search(question: Question, candidates: Sequence[Candidate], run: Map) -> list[Scored]:
    """All kinds; and those that can be started now, with drafts and without, among themselves, where none of them was
    worth a look so far."""
    scored = search_phase(question, candidates, run)
    for kind in (_is_runnable, _drafts, _drafts_not):
        if not any(kind(one.candidate) for one in scored):
            scored += search_phase(question, [one for one in candidates if kind(one)], run)
    return scored


def _is_runnable(candidate: Candidate) -> bool:
    return candidate.is_runnable


def _drafts(candidate: Candidate) -> bool:
    return candidate.shape.draft is not None


def _drafts_not(candidate: Candidate) -> bool:
    return candidate.shape.draft is None


def _disaggregated(
    question: Question,
    found: dict[Role, FoundCandidates],
    scored: dict[Role, list[Scored]],
    run: Map,
    note: Callable[[str], None],
) -> tuple[list[Layout], KVDemand | None]:
    """By Algorithm 1, unless what it finds needs more bandwidth between nodes than there is."""
    layouts = high_affinity(question, scored[Role.PREFILL], scored[Role.DECODE])
    if not layouts:
        return [], None
    demand = kv_demand(
        layouts[0],
        rate=question.rate,
        mean_prompt=question.mean_prompt,
        token_bytes=question.costs.token_bytes,
        state_bytes=question.costs.state_bytes,
        site=question.site,
    )
    if demand.is_affordable:
        return layouts, demand
    note("KV is too much for the links between nodes: prefill and decode side by side")
    prefills, decodes = found[Role.PREFILL].promising, found[Role.DECODE].promising
    layouts = low_affinity(question, prefills, decodes, run)
    if all(layout.missing_features for layout in layouts):
        startable, others = ([one for one in many if one.is_runnable] for many in (prefills, decodes))
        layouts += low_affinity(question, startable, others, run)
    return layouts, demand


def _chosen(layouts: Sequence[Layout]) -> list[Layout]:
    """The first few of different shapes, and the first of those that can be started now, with drafts and without."""
    chosen: dict[tuple[str, ...], Layout] = {}
    startable = [layout for layout in layouts if not layout.missing_features]
    with_drafts = [layout for layout in startable if layout.draft]
    without = [layout for layout in startable if not layout.draft]
    firsts = [*startable[:1], *with_drafts[:1], *without[:1]]
    for layout in [*layouts[: 4 * NUM_ALTERNATIVES], *firsts]:
        shapes = tuple(str(pool.shape) for pool in layout.pools)
        if len(chosen) < NUM_ALTERNATIVES or layout in firsts:
            chosen.setdefault(shapes, layout)
    return list(chosen.values())


def check_fits(question: Question, options: Options, found: FoundCandidates) -> None:
    """Raises where no degree fits: weights, one step and the longest request are too much."""
    if found.candidates:
        return
    if not found.too_large:
        raise ConfigError("the model divides by no degree that the nodes allow; give nodes with more devices")
    degrees, fitted = min(found.too_large, key=lambda pair: pair[1].needed_bytes)
    footprint = fitted.footprint
    which = "at any degree that this version starts" if options.runnable_only else "at any degree"
    raise ConfigError(
        f"the model fits no {question.site.device_name} {which}: at {degrees} a device needs "
        f"{fitted.needed_bytes:,} bytes ({footprint.weight_bytes:,} of weights, {footprint.activation_bytes:,} for a "
        f"step, the rest for KV of one request of {question.max_request_tokens:,} tokens) and has "
        f"{fitted.device_bytes:,}; give larger devices, more of them per node, or shorter requests"
    )


def check_idle(question: Question, found: dict[Role, FoundCandidates]) -> None:
    """Raises where even idle workers miss a limit: the limit, and the closest worker."""
    split = found[Role.PREFILL].promising and found[Role.DECODE].promising
    if split or found[Role.MIXED].promising:
        return
    slo = question.slo
    mixed, prefill, decode = (found[role].candidates for role in (Role.MIXED, Role.PREFILL, Role.DECODE))
    reader = min([*prefill, *mixed], key=lambda candidate: candidate.idle_ttft_s)
    writer = min([*decode, *mixed], key=lambda candidate: candidate.idle_tpot_s)
    if reader.idle_ttft_s > slo.ttft_s:
        raise ConfigError(
            f"--slo-ttft {slo.ttft_s * 1000:g}: no plan meets it: the closest, an idle {_named(reader)}, "
            f"reads {slo.attainment:.0%} of the prompts within {reader.idle_ttft_s * 1000:.1f} ms; "
            "raise it, or give faster devices"
        )
    raise ConfigError(
        f"--slo-tpot {slo.tpot_s * 1000:g}: no plan meets it: the closest, an idle {_named(writer)}, "
        f"takes {writer.idle_tpot_s * 1000:.1f} ms for a token; raise it, or give faster devices"
    )


def _named(candidate: Candidate) -> str:
    return f"{candidate.role} worker {candidate.shape}".rstrip()


def _too_little(question: Question, plans: Sequence[Plan]) -> str:
    site, slo = question.site, question.slo
    start = f"no plan on {site.named(site.num_devices)} holds the SLO at {question.rate:g} requests/s"
    there = [plan for plan in plans if plan.layout.num_devices <= site.num_devices]
    if not there:
        return f"{start}: no worker serves anything within it; relax --slo-ttft {slo.ttft_s * 1000:g} or --slo-tpot"
    closest = max(there, key=lambda plan: plan.outcome.attainment)
    outcome = closest.outcome
    limit = "ttft" if outcome.ttft_attainment < outcome.tpot_attainment else "tpot"
    share = min(outcome.ttft_attainment, outcome.tpot_attainment)
    return (
        f"{start}: the closest, {closest.layout}, serves {outcome.attainment:.1%} of the requests within it, "
        f"{slo.attainment:.0%} are wanted (--slo-{limit} {getattr(slo, f'{limit}_s') * 1000:g} is met by {share:.1%}), "
        f"and holds it up to {measure_goodput(question, closest):.3g} requests/s; give more nodes, a lower --rate or a "
        "wider limit"
    )
