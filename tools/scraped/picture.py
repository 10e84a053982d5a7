"""Draws the dashboards' queries with matplotlib, from what a real Prometheus answers. It is not Grafana that draws."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.dashboards.__main__ import DASHBOARDS
from tools.dashboards.panel import Dashboard, Kind, Panel
from tools.scraped.asked import filled
from tools.scraped.prometheus import Prometheus, Series

COLUMNS = 3
UNITS = {"percentunit": "share", "reqps": "requests/s", "Bps": "bytes/s", "s": "s", "short": ""}
MAX_LABELS = 8


def draw(prometheus: Prometheus, start_s: float, end_s: float, folder: Path) -> list[Path]:
    """One picture for each dashboard."""
    return [_picture(prometheus, each, start_s, end_s, folder / f"dashboard-{each.name}.png") for each in DASHBOARDS]


def _picture(prometheus: Prometheus, dashboard: Dashboard, start_s: float, end_s: float, path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [panel for panel in dashboard.panels if panel.kind is not Kind.NUMBER]
    num_rows = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(num_rows, COLUMNS, figsize=(15, 2.9 * num_rows + 0.8), squeeze=False)
    figure.suptitle(f"Baton / {dashboard.title}    {_headline(prometheus, dashboard, end_s)}", fontsize=11)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, prometheus, panel, start_s, end_s)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=60)
    pyplot.close(figure)
    return path


def _headline(prometheus: Prometheus, dashboard: Dashboard, at_s: float) -> str:
    """Panels that show one number."""
    told = []
    for panel in dashboard.panels:
        series = prometheus.query(filled(panel.queries[0].expression), at_s) if panel.kind is Kind.NUMBER else []
        if series:
            told.append(f"{panel.title} {_shown(float(series[0]['value'][1]), panel.unit)}")
    return " · ".join(told)


def _shown(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "percentunit" else f"{value:.3g} {UNITS[unit]}".rstrip()


def _panel(axes: Any, prometheus: Prometheus, panel: Panel, start_s: float, end_s: float) -> None:
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_ylabel(UNITS[panel.unit], fontsize=7)
    axes.tick_params(labelsize=7)
    drawn = [
        (_label(query.legend, series), _points(series, start_s))
        for query in panel.queries
        for series in prometheus.range(filled(query.expression), start_s, end_s, 2.0)
    ]
    if panel.is_stacked and drawn:
        _stack(axes, drawn)
    else:
        for label, (at_s, values) in drawn:
            axes.plot(at_s, values, label=label, linewidth=1, clip_on=False)
    axes.set_ylim(bottom=panel.low, top=panel.high)
    if drawn and len(drawn) <= MAX_LABELS:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def _stack(axes: Any, drawn: Sequence[tuple[str, tuple[list[float], list[float]]]]) -> None:
    times = sorted({at_s for _, (series_s, _) in drawn for at_s in series_s})
    rows = []
    for _, (series_s, values) in drawn:
        known = {at_s: 0.0 if math.isnan(value) else value for at_s, value in zip(series_s, values, strict=True)}
        rows.append([known.get(at_s, 0.0) for at_s in times])
    axes.stackplot(times, rows, labels=[label for label, _ in drawn], alpha=0.7)


def _points(series: Series, start_s: float) -> tuple[list[float], list[float]]:
    return [float(at_s) - start_s for at_s, _ in series["values"]], [float(value) for _, value in series["values"]]


def _label(legend: str, series: Series) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: series["metric"].get(found[1], ""), legend)
