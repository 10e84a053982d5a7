"""The picture of a run: three distributions above, the requests over time below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.load.metrics import samples_s
from cluster.load.session import Measurement

_INK = "#1f4e79"
_LIGHT = "#9dc3e6"


def draw(measurement: Measurement, path: Path) -> None:
    """Writes a picture of the kind that the suffix of `path` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3)
    values_s = samples_s([record for record in measurement.run.records if record.is_completed])
    for column, metric in enumerate(("ttft", "tpot", "itl")):
        _distribution(figure.add_subplot(grid[0, column]), metric.upper(), values_s[metric], measurement.result)
    _timeline(figure.add_subplot(grid[1, :]), measurement)
    result = measurement.result
    figure.suptitle(
        f"{result['model_id']} over {result['backend']}: {result['completed']} requests, "
        f"{result['request_throughput']:.2f} requests/s, {result['output_throughput']:.0f} output tokens/s"
    )
    figure.savefig(path, dpi=110)


def _distribution(axes: Any, name: str, values_s: Sequence[float], result: dict[str, Any]) -> None:
    values_ms = sorted(value_s * 1000 for value_s in values_s)
    shares = [(place + 1) / len(values_ms) for place in range(len(values_ms))]
    axes.plot(values_ms, shares, color=_INK, drawstyle="steps-post")
    for q in (50, 99):
        axes.axvline(result[f"p{q}_{name.lower()}_ms"], color=_LIGHT, linestyle="--", linewidth=1)
    target_ms = result["goodput_targets_ms"].get(name.lower())
    if target_ms is not None:
        axes.axvline(target_ms, color="tab:red", linewidth=1, label="target")
        axes.legend(loc="lower right")
    axes.set(title=f"{name} (p50 and p99 dashed)", xlabel="ms", ylabel="share", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


def _timeline(axes: Any, measurement: Measurement) -> None:
    """A line per request, from sent to last token, light until the first token."""
    start_s = measurement.run.start_s
    records = measurement.run.records
    width = max(0.5, 250 / max(1, len(records)))
    answered = [(row, record) for row, record in enumerate(records) if record.token_s]
    rows = [row for row, _ in answered]
    sent_s = [record.sent_s - start_s for _, record in answered]
    first_s = [record.token_s[0] - start_s for _, record in answered]
    last_s = [record.token_s[-1] - start_s for _, record in answered]
    axes.hlines(rows, sent_s, first_s, color=_LIGHT, linewidth=width)
    axes.hlines(rows, first_s, last_s, color=_INK, linewidth=width)
    failed = [(record.sent_s - start_s, row) for row, record in enumerate(records) if record.error]
    axes.plot([at_s for at_s, _ in failed], [row for _, row in failed], "x", color="tab:red", markersize=4)
    axes.set(
        title="Requests in the order sent: light until the first token, dark while tokens come, x failed",
        xlabel="s",
        ylabel="request",
    )
    axes.set_xlim(0, measurement.run.duration_s)
    axes.invert_yaxis()
