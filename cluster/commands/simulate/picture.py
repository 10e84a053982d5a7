"""The Gantt picture of a simulation: workers above, requests below, faults as vertical lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.contracts.simulation import Fault, SimResult
from cluster.simulator.timeline import REQUEST, Lane, lanes

COLOURS = {
    "queued": "#d9d9d9",
    "prefill": "#d95f02",
    "mixed": "#7570b3",
    "decode": "#1f78b4",
    "transfer": "#33a02c",
    "down": "#000000",
    "starting": "#fdbf6f",
}
TICK_REQUESTS = 10  # lanes from one named request to the next
WORKER_HEIGHT, REQUEST_HEIGHT = 0.36, 0.1  # inches per lane


def draw(result: SimResult, path: Path, *, faults: Sequence[Fault], title: str) -> None:
    """Writes a picture of the kind that the suffix of `path` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = lanes(result.spans, end_s=result.end_s)
    workers = [lane for lane in rows if not lane.is_request]
    requests = [lane for lane in rows if lane.is_request]
    heights = [max(1.0, WORKER_HEIGHT * len(workers)), max(1.0, REQUEST_HEIGHT * len(requests))]
    figure = Figure(figsize=(13, sum(heights) + 2.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _bars(upper, workers, every=1)
    _bars(lower, requests, every=TICK_REQUESTS)
    for axes in (upper, lower):
        for fault in faults:
            axes.axvline(fault.at_s, color="red", linewidth=1)
            if fault.duration_s:
                axes.axvspan(fault.at_s, fault.at_s + fault.duration_s, color="red", alpha=0.07, linewidth=0, zorder=0)
    num_requests = len(result.records)
    lower.set_ylabel("requests" if len(requests) == num_requests else f"{len(requests)} of {num_requests} requests")
    for fault in faults:
        upper.annotate(fault.kind, (fault.at_s, -0.6), color="red", fontsize=8, annotation_clip=False)
    lower.set_xlabel("s")
    lower.set_xlim(0, max(result.end_s, 1e-9))
    kinds = {bar.kind for lane in rows for bar in lane.bars}
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items() if kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(COLOURS))
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def _bars(axes: Any, rows: Sequence[Lane], *, every: int) -> None:
    """One row per lane, every so-manieth named."""
    for row, lane in enumerate(rows):
        for kind, colour in COLOURS.items():
            spans = [(bar.start_s, bar.end_s - bar.start_s) for bar in lane.bars if bar.kind == kind]
            axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=colour)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(0, len(rows), every), [lane.name.removeprefix(REQUEST) for lane in rows[::every]])
