"""The plans as a table, and what is to be said of them below it."""

from collections.abc import Sequence
from math import inf, isfinite

from rich.table import Table

from cluster.planner.search.planning import PlanAnswer
from cluster.planner.search.report import (
    PERCENTS,
    ReportRow,
    affinity,
    drafts_verdict,
    robustness_lines,
    row,
    verdict,
    verification,
)
from cluster.planner.search.trial import Question

NAME_WIDTH, PLAN_WIDTH = 24, 16  # columns of a terminal that the names and a plan take at least


def headline(question: Question) -> str:
    """What was asked."""
    slo, site = question.slo, question.site
    return (
        f"{question.rate:g} requests/s; {slo.attainment:.0%} within TTFT {slo.ttft_s * 1000:g} ms "
        f"and TPOT {slo.tpot_s * 1000:g} ms; {site.num_nodes} x {site.named(site.devices_per_node)}"
    )


def plans_tables(question: Question, answer: PlanAnswer, *, width: int) -> list[Table]:
    """As many plans beside each other as `width` columns show whole, the others below."""
    rows = [row(question, plan) for plan in answer.plans]
    size = max((width - NAME_WIDTH) // PLAN_WIDTH, 1)
    return [_table(question, rows[start : start + size], start) for start in range(0, len(rows), size)]


def _table(question: Question, rows: Sequence[ReportRow], start: int) -> Table:
    table = Table()
    table.add_column("", no_wrap=True)
    for place, shown in enumerate(rows, start):
        kind = shown.kind if shown.is_runnable else f"{shown.kind}, not yet runnable"
        table.add_column(f"{'best: ' if not place else ''}{kind}", justify="right", style="" if place else "bold")
    for name, cells in _lines(rows, question.site.device_name):
        table.add_row(name, *cells)
    return table


def _lines(rows: Sequence[ReportRow], device: str) -> list[tuple[str, list[str]]]:
    lines = [
        ("workers", [shown.layout for shown in rows]),
        ("devices (nodes)", [f"{shown.num_devices} ({shown.num_nodes})" for shown in rows]),
        ("goodput, requests/s", [_rate(shown.goodput) for shown in rows]),
        (f"goodput per {device}", [f"{shown.goodput_per_device:.3g}" for shown in rows]),
        ("attainment, both", [f"{shown.attainment:.1%}" for shown in rows]),
        *((f"TTFT P{percent}, ms", [_time(one.ttft_ms[at]) for one in rows]) for at, percent in enumerate(PERCENTS)),
        *((f"TPOT P{percent}, ms", [_time(one.tpot_ms[at]) for one in rows]) for at, percent in enumerate(PERCENTS)),
        ("KV path", [shown.kv_path for shown in rows]),
        ("KV, GB/s", [_kv(shown) for shown in rows]),
        ("KV memory to spare", [f"{shown.memory_headroom:.0%}" for shown in rows]),
        ("tokens per step", [f"{shown.budget:,}{'' if shown.is_chunked else ', prompts whole'}" for shown in rows]),
    ]
    if any(shown.price_per_h is not None for shown in rows):
        lines.append(("US$ per hour", [_price(shown.price_per_h, 2) for shown in rows]))
        lines.append(("US$ per 1,000 req.", [_price(shown.price_per_1000_requests, 4) for shown in rows]))
    return lines


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < inf else f"{value:.1f}" if isfinite(value) else "-"


def _kv(shown: ReportRow) -> str:
    return f"{shown.kv_needed_gbps:.2f} of {shown.kv_available_gbps:,.0f}" if shown.kv_available_gbps else "-"


def _price(price: float | None, digits: int) -> str:
    return "-" if price is None else f"{price:.{digits}f}"


def sentences(question: Question, answer: PlanAnswer) -> list[str]:
    """Below the table: which kind wins and why, what was checked, what trouble does."""
    lines = [verdict(question, answer), affinity(question, answer), drafts_verdict(question, answer), ""]
    lines = lines if lines[2] else [*lines[:2], ""]
    lines += ["The best plan:", *(f"  {line}" for line in robustness_lines(answer.robustness))]
    lines.append(f"  {verification(answer.best)}")
    missing = answer.best.layout.missing_features
    if missing:
        lines.append(f"  not yet runnable: this version cannot start {'; '.join(missing)}; leave --hypothetical out")
    lines.append("")
    if question.site.device_price_per_h is None:
        lines.append("No price of a device is known: give --price for the cost in US$.")
    lines.append(
        f"{answer.num_candidates} kinds of workers considered, {answer.num_scored} came near the best; "
        f"seed {question.seed}"
    )
    return lines
