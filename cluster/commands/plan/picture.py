"""The picture of an answer: goodput per device of the plans, and their TTFT and TPOT against the SLO."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from cluster.commands.plan.table import headline
from cluster.planner.search.planning import PlanAnswer
from cluster.planner.search.report import row
from cluster.planner.search.trial import Question

BAR_HEIGHT = 0.55  # inches per plan
_COLORS = ("#1f4e79", "#d9822b", "#5b8c5a", "#8c5b8c", "#999999")


def draw(question: Question, answer: PlanAnswer, path: Path, *, title: str) -> None:
    """Writes a picture of the kind that the suffix of `path` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = BAR_HEIGHT * len(answer.plans)
    figure = Figure(figsize=(13, 6 + bars), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(bars, 4))
    _goodputs(figure.add_subplot(grid[0, :]), question, answer)
    slo = question.slo
    outcomes = [plan.outcome for plan in answer.plans]
    names = [str(plan.layout) for plan in answer.plans]
    ttfts = [outcome.ttft_s for outcome in outcomes]
    tpots = [outcome.tpot_s for outcome in outcomes]
    _distribution(figure.add_subplot(grid[1, 0]), "TTFT", ttfts, names, slo.ttft_s, slo.attainment)
    last = figure.add_subplot(grid[1, 1])
    _distribution(last, "TPOT", tpots, names, slo.tpot_s, slo.attainment)
    figure.legend(*last.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(f"{title}\n{headline(question)}")
    figure.savefig(path, dpi=110)


def _goodputs(axes: Any, question: Question, answer: PlanAnswer) -> None:
    rows = [row(question, plan) for plan in answer.plans]
    places = list(range(len(rows)))
    bars = axes.barh(places, [shown.goodput_per_device for shown in rows], color=_colors(len(rows)))
    axes.bar_label(bars, [f" {shown.goodput_per_device:.3g} ({shown.num_devices} devices)" for shown in rows])
    labels = [f"{shown.layout}\n{shown.kind}{'' if shown.is_runnable else ', not yet runnable'}" for shown in rows]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f"goodput per {question.site.device_name}, requests/s", title="Plans, best first")


def _distribution(
    axes: Any, name: str, series: Sequence[Sequence[float]], labels: Sequence[str], limit_s: float, share: float
) -> None:
    """Cumulative, of all counted requests; failed ones never arrive."""
    for values_s, label, color in zip(series, labels, _colors(len(series)), strict=True):
        values_ms = sorted(value_s * 1000 for value_s in values_s if isfinite(value_s))
        shares = [(place + 1) / len(values_s) for place in range(len(values_ms))]
        axes.plot(values_ms, shares, color=color, drawstyle="steps-post", label=label)
    axes.axvline(limit_s * 1000, color="tab:red", linewidth=1, label="SLO")
    axes.axhline(share, color="tab:red", linewidth=1, linestyle=":")
    axes.set(title=f"{name} at the rate asked for", xlabel="ms", ylabel="share of requests", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


def _colors(count: int) -> list[str]:
    return [_COLORS[index % len(_COLORS)] for index in range(count)]
