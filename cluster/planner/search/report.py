"""What a plan says of itself: rows of the table, reasons in sentences, comments of its YAML, plain data for JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from cluster.planner.search.planning import PlanAnswer
from cluster.planner.search.refine import CLOSE, Plan
from cluster.planner.search.robustness import Robustness
from cluster.planner.search.trial import Question

PERCENTS = (50, 90, 99)
PROBE_BYTES = 1 << 30  # the bandwidth of a link is read off what it takes for so many


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One plan, in the units that people read: ms, GB/s, shares."""

    layout: str
    kind: str  # disaggregated | co-located
    num_devices: int
    num_nodes: int
    goodput: float  # requests/s
    goodput_per_device: float
    ttft_ms: tuple[float, ...]  # P50, P90, P99
    tpot_ms: tuple[float, ...]
    attainment: float
    kv_path: str  # none | inside a node | between nodes
    kv_needed_gbps: float  # GB/s: between nodes over the busiest node's links, else over all
    kv_available_gbps: float  # of those links
    memory_headroom: float  # the smallest of the pools
    price_per_h: float | None  # US$
    price_per_1000_requests: float | None  # at the rate asked for
    budget: int
    is_chunked: bool
    missing: tuple[str, ...]

    @property
    def is_runnable(self) -> bool:
        return not self.missing


def row(question: Question, plan: Plan) -> ReportRow:
    layout, outcome, price = plan.layout, plan.outcome, question.site.device_price_per_h
    kv_path, kv_needed, kv_available = _kv(question, plan)
    price_per_h = None if price is None else price * layout.num_devices
    return ReportRow(
        layout=str(layout),
        kind=kind(plan),
        num_devices=layout.num_devices,
        num_nodes=plan.num_nodes,
        goodput=plan.goodput,
        goodput_per_device=plan.goodput_per_device,
        ttft_ms=tuple(outcome.ttft_percentile(percent) * 1000 for percent in PERCENTS),
        tpot_ms=tuple(outcome.tpot_percentile(percent) * 1000 for percent in PERCENTS),
        attainment=outcome.attainment,
        kv_path=kv_path,
        kv_needed_gbps=kv_needed / 1e9,
        kv_available_gbps=kv_available / 1e9,
        memory_headroom=min(pool.shape.fit.headroom_share for pool in layout.pools),
        price_per_h=price_per_h,
        price_per_1000_requests=None if price_per_h is None else price_per_h / (3.6 * question.rate),
        budget=layout.engine.max_batched_tokens,
        is_chunked=layout.engine.chunked_prefill,
        missing=tuple(layout.missing_features),
    )


def _kv(question: Question, plan: Plan) -> tuple[str, float, float]:
    """Where KV moves, and the bytes/s that are needed and there."""
    layout = plan.layout
    if not layout.is_disaggregated:
        return "none", 0.0, 0.0
    if plan.kv.needed:
        return "between nodes", plan.kv.needed, plan.kv.available
    source, target = layout.pools
    path = question.costs.transfer(source.shape.parallelism, target.shape.parallelism, within_node=True)
    num_links = layout.num_replicas * min(source.num_workers, target.num_workers)
    return "inside a node", plan.outcome.kv_bandwidth, num_links * PROBE_BYTES / path.transfer_s(PROBE_BYTES)


def kind(plan: Plan) -> str:
    return "disaggregated" if plan.layout.is_disaggregated else "co-located"


def verdict(question: Question, answer: PlanAnswer) -> str:
    """Which kind wins, and why, in one or two plain sentences."""
    split, together = answer.best_disaggregated, answer.best_colocated
    if answer.colocated_because:
        return f"Co-located is the only kind that was looked at: {answer.colocated_because}."
    if together is None:
        return (
            "Disaggregated wins: no co-located plan holds the SLO here, because prompts and answers that share "
            "workers delay each other."
        )
    if split is None:
        why = _why_together(question, together, None)
        return f"Co-located wins: no disaggregated plan holds the SLO on these devices. {why}"
    winner, other = (split, together) if answer.best.layout.is_disaggregated else (together, split)
    compared = _compared(question, winner, other)
    if winner is together:
        return f"Co-located wins: {compared}. {_why_together(question, together, split)}"
    return f"Disaggregated wins: {compared}. {_why_split(question, together)}"


def drafts_verdict(question: Question, answer: PlanAnswer) -> str:
    """Whether draft workers pay for their devices; empty: nobody asked."""
    drafted, plain = answer.best_drafted, answer.best_undrafted
    if not answer.tried_drafts:
        return ""
    if drafted is None:
        return "Draft workers do not pay: no plan with them holds the SLO on these devices."
    if plain is None:
        return f"Draft workers pay: no plan without them holds the SLO on these devices; {drafted.layout} does."
    pays = drafted.order < plain.order
    winner, other = (drafted, plain) if pays else (plain, drafted)
    site = question.site
    return (
        f"Draft workers {'pay' if pays else 'do not pay'}: {'with' if pays else 'without'} them it takes "
        f"{site.named(winner.layout.num_devices)} ({winner.goodput_per_device:.3g} requests/s each before the SLO "
        f"breaks), {'without' if pays else 'with'} them {other.layout.num_devices} ({other.goodput_per_device:.3g} "
        f"each: {other.layout}). Their drafting is counted before each step, though part of it is done meanwhile."
    )


def _compared(question: Question, winner: Plan, other: Plan) -> str:
    ours, theirs = winner.layout.num_devices, other.layout.num_devices
    site = question.site
    if ours != theirs:
        return f"it takes {site.named(ours)} for {question.rate:g} requests/s, {kind(other)} takes {theirs}"
    if winner.layout.missing_features != other.layout.missing_features and not winner.layout.missing_features:
        return f"both take {site.named(ours)}, and it can be started by this version"
    ratio = winner.goodput_per_device / max(other.goodput_per_device, 1e-9)
    if ratio <= 1 + 2 * CLOSE:
        return f"both take {site.named(ours)} and serve as much, within the noise"
    return f"both take {site.named(ours)}, and it serves {ratio:.2f} times as much before the SLO breaks"


def _why_together(question: Question, together: Plan, split: Plan | None) -> str:
    """Nothing is gained by two pools: they serve as much, or come in whole workers, or each idles at times."""
    if split is not None and split.layout.num_devices == together.layout.num_devices:
        return "One pool is the simpler of the two: no KV moves, and there is no ratio to keep."
    if split is not None and split.goodput_per_device >= (1 - CLOSE) * together.goodput_per_device:
        return (
            f"Per device both serve about as much ({together.goodput_per_device:.3g} and "
            f"{split.goodput_per_device:.3g} requests/s), but two pools are rounded up to whole workers each: "
            f"{split.layout}."
        )
    tpot_ms, limit_ms = together.outcome.tpot_percentile(90) * 1000, question.slo.tpot_s * 1000
    engine = together.layout.engine
    chunks = f"Prompts in chunks of {engine.max_batched_tokens} tokens beside the answers"
    prompts = chunks if engine.chunked_prefill else "Whole prompts between the answers' steps"
    return (
        f"{prompts} leave TPOT at {tpot_ms:.1f} ms (P90) of {limit_ms:g} allowed, so keeping them apart gains nothing, "
        "and every device does whichever work there is."
    )


def _why_split(question: Question, together: Plan) -> str:
    outcome = together.outcome
    limit = "TPOT" if outcome.tpot_attainment <= outcome.ttft_attainment else "TTFT"
    return f"Co-located workers come to their limit by {limit}: prompts and answers share each step there."


def affinity(question: Question, answer: PlanAnswer) -> str:
    """Which of the two algorithms placed the pools, and by what bandwidth."""
    demand = answer.across_nodes
    if answer.colocated_because:
        return "No KV moves."
    if demand is None:
        return "Only co-located plans meet the SLO: no KV moves."
    if question.site.num_nodes == 1 or not demand.needed:
        return "The disaggregated plan fits one node: KV stays inside it."
    needed, available = demand.needed / 1e9, demand.available / 1e9
    if demand.is_affordable:
        return (
            f"High node affinity: KV needs {needed:.2f} GB/s of the {available:.1f} GB/s that a node sends, so pools "
            "were sized apart and may lie on any node."
        )
    return (
        f"Low node affinity: KV would need {needed:.2f} GB/s of the {available:.1f} GB/s that a node sends, so prefill "
        "and decode lie side by side, and KV stays inside nodes."
    )


def robustness_lines(robustness: Robustness) -> list[str]:
    side = "above" if robustness.margin >= 0 else "below"
    lines = [f"margin: goodput is {abs(robustness.margin):.0%} {side} the rate asked for"]
    for trouble in robustness.troubles:
        holds = "holds" if trouble.meets else "does not hold"
        note = f"; {trouble.note}" if trouble.note else ""
        lines.append(f"{trouble.name}: {trouble.attainment:.1%} of requests, the SLO {holds}{note}")
    return lines


def verification(plan: Plan) -> str:
    """How much was simulated."""
    outcome = plan.outcome
    whole = "the whole plan" if outcome.share == 1 else f"a slice of {outcome.share:.1%} of the plan, equally loaded,"
    return f"simulated jointly: {whole} with {outcome.num_requests} requests counted, after those that warm it up"


def comments(question: Question, answer: PlanAnswer, *, command: str, about: str) -> list[str]:
    """The head of plan.yaml: command, prediction, reasons."""
    best, shown = answer.best, row(question, answer.best)
    lines = [
        f"Made by: {command}",
        about,
        "",
        f"Plan: {shown.layout} ({shown.kind}, {question.site.named(shown.num_devices)})",
        f"Predicted at {question.rate:g} requests/s: {shown.attainment:.1%} of requests within TTFT "
        f"{question.slo.ttft_s * 1000:g} ms and TPOT {question.slo.tpot_s * 1000:g} ms "
        f"(wanted: {question.slo.attainment:.1%})",
        f"  TTFT P50 / P90 / P99: {_three(shown.ttft_ms)} ms",
        f"  TPOT P50 / P90 / P99: {_three(shown.tpot_ms)} ms",
        f"  goodput: {shown.goodput:.3g} requests/s, {shown.goodput_per_device:.3g} per device",
        f"  KV: {kv_text(shown)}",
        f"  memory: {shown.memory_headroom:.0%} of the fullest device is left for the KV of more requests",
        f"  cost: {_cost(shown, question)}",
        f"  {verification(best)}",
        "",
        *_beside(question, answer),
        f"Why: {verdict(question, answer)}",
        affinity(question, answer),
        *([said] if (said := drafts_verdict(question, answer)) else ()),
        *robustness_lines(answer.robustness),
    ]
    if shown.missing:
        lines += ["", "NOT YET RUNNABLE: this version cannot start " + "; ".join(shown.missing) + "."]
        lines.append("`baton up` refuses this file; `baton plan` without --hypothetical finds the best that it starts.")
    if best.layout.num_replicas > 1:
        count = best.layout.num_replicas
        lines += ["", f"Start {count} such clusters, each on devices of one node, and share the requests out evenly."]
    return lines


def kv_text(shown: ReportRow) -> str:
    if shown.kv_path == "none":
        return "none moves"
    return f"{shown.kv_needed_gbps:.2f} of {shown.kv_available_gbps:,.0f} GB/s, {shown.kv_path}"


def _cost(shown: ReportRow, question: Question) -> str:
    if shown.price_per_h is None or shown.price_per_1000_requests is None:
        return f"{question.site.named(shown.num_devices)}; no price is known, --price gives one"
    return f"US$ {shown.price_per_h:.2f} per hour, {shown.price_per_1000_requests:.4f} per 1,000 requests"


def _beside(question: Question, answer: PlanAnswer) -> list[str]:
    """The best plan of the other kind, in a line."""
    other = answer.best_colocated if answer.best.layout.is_disaggregated else answer.best_disaggregated
    if other is None:
        return []
    shown = row(question, other)
    missing = "" if shown.is_runnable else ", not yet runnable"
    return [
        f"Beside it: {shown.layout} ({shown.kind}, {question.site.named(shown.num_devices)}{missing}): "
        f"{shown.attainment:.1%} within both, goodput {shown.goodput:.3g} requests/s, "
        f"{shown.goodput_per_device:.3g} per device, TTFT {_three(shown.ttft_ms)} ms, TPOT {_three(shown.tpot_ms)} ms",
        "",
    ]


def _three(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" if isfinite(value) else "never" for value in values)


def as_data(question: Question, answer: PlanAnswer) -> dict[str, Any]:
    """For --json: everything the table shows, and what was considered."""
    return {
        "rate": question.rate,
        "slo": {"ttft_ms": question.slo.ttft_s * 1000, "tpot_ms": question.slo.tpot_s * 1000}
        | {"attainment": question.slo.attainment},
        "seed": question.seed,
        "plans": [_plan_data(question, plan) for plan in answer.plans],
        "verdict": verdict(question, answer),
        "affinity": affinity(question, answer),
        "drafts": drafts_verdict(question, answer),
        "robustness": asdict(answer.robustness),
        "num_candidates": answer.num_candidates,
        "workers_simulated": [
            {
                "role": str(one.candidate.role),
                "worker": str(one.candidate.shape) or "1 device",
                "max_batched_tokens": one.candidate.engine.max_batched_tokens,
                "goodput": one.goodput,
                "goodput_per_device": one.goodput_per_device,
            }
            for one in answer.scored
        ],
    }


def _plan_data(question: Question, plan: Plan) -> dict[str, Any]:
    shown = {key: _finite(value) for key, value in asdict(row(question, plan)).items()}
    pools = {
        str(pool.role): {
            "workers": pool.num_workers,
            "worker": str(pool.shape) or "1 device",
            "kv_blocks": pool.shape.fit.num_blocks,
        }
        for pool in plan.layout.pools
    }
    simulated = {"requests_counted": plan.outcome.num_requests, "share_simulated": plan.outcome.share}
    return shown | {"clusters": plan.layout.num_replicas, "pools": pools} | simulated


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
