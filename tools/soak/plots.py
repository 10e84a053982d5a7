"""The pictures of a soak: what clients got over time, and what the cluster's processes held."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tools.soak.result import Result, percentile
from tools.soak.samples import ProcessSample
from tools.soak.verdict import BAD_ONES, Verdict

COLOURS = {
    Verdict.OK: "#2c7fb8",
    Verdict.ENDED: "#a6bddb",
    Verdict.REJECTED: "#d9d9d9",
    Verdict.EXPECTED_LOSS: "#fdae61",
    Verdict.WRONG: "#7a0177",
    Verdict.FAILED: "#d7191c",
}
NUM_BINS = 120  # of a run's length
MAX_KINDS = 14
Axes = Any  # matplotlib has no types


def draw_load(result: Result, path: Path) -> None:
    figure, (rate, wait, queue) = _figure(3)
    width_s = max(2.0, result.duration_s / NUM_BINS)
    _draw_rate(rate, result, width_s)
    _draw_waits(wait, result, width_s)
    _draw_queue(queue, result)
    _mark(rate, result, names=True)
    for axes in (wait, queue):
        _mark(axes, result)
    figure.suptitle(result.summary())
    figure.savefig(path, dpi=110)


def draw_resources(result: Result, path: Path) -> None:
    figure, (memory, fds, threads, blocks) = _figure(4)
    processes = result.samples.processes
    _draw_kinds(memory, processes, lambda one: one.anonymous / (1 << 20), "memory of its own, MiB")
    _draw_kinds(fds, processes, lambda one: one.fds, "file descriptors")
    _draw_kinds(threads, processes, lambda one: one.threads, "threads")
    _draw_blocks(blocks, result)
    for axes in (memory, fds, threads, blocks):
        _mark(axes, result)
    memory.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    figure.suptitle("What each process holds, a line for each; grey: something was done to the cluster")
    figure.savefig(path, dpi=110)


def _figure(num_rows: int) -> tuple[Any, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.0 * num_rows + 1), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(num_rows, 1, sharex=True)
    rows[-1].set_xlabel("s since the load began")
    for axes in rows:
        axes.grid(alpha=0.3)
    return figure, rows


def _mark(axes: Axes, result: Result, *, names: bool = False) -> None:
    """What was done to the cluster, until it was whole again."""
    for place, one in enumerate(result.happenings):
        axes.axvspan(one.begin_s, one.over_s or one.begin_s + 1, color="#000000", alpha=0.07, linewidth=0)
        axes.axvline(one.begin_s, color="#555555", linewidth=0.6)
        if names:
            height = 1.02 + 0.07 * (place % 4)
            axes.text(one.begin_s, height, one.kind, fontsize=6, transform=axes.get_xaxis_transform())


def _draw_rate(axes: Axes, result: Result, width_s: float) -> None:
    """Requests by when they ended, stacked."""
    ends: dict[Verdict, list[float]] = defaultdict(list)
    for outcome, verdict in result.verdicts():
        ends[verdict].append(outcome.end_s)
    shown = [verdict for verdict in COLOURS if ends[verdict]]
    last_s = max((outcome.end_s for outcome in result.outcomes), default=1.0)
    bins = [width_s * number for number in range(int(last_s / width_s) + 2)]
    weights = [[1 / width_s] * len(ends[verdict]) for verdict in shown]
    if not shown:
        return
    axes.hist(
        [ends[verdict] for verdict in shown],
        bins=bins,
        weights=weights,
        stacked=True,
        color=[COLOURS[verdict] for verdict in shown],
        label=[f"{verdict} ({len(ends[verdict])})" for verdict in shown],
    )
    axes.set_ylabel("requests ended / s")
    axes.legend(loc="lower left", fontsize=7, ncols=len(shown) or 1)
    for outcome, verdict in result.verdicts():
        if verdict in BAD_ONES:
            axes.plot(outcome.end_s, 0, "x", color=COLOURS[verdict], markersize=7, clip_on=False)


def _draw_waits(axes: Axes, result: Result, width_s: float) -> None:
    """To the first token and to the end, of those that finished well and did not read slowly."""
    well = [one for one, verdict in result.verdicts() if verdict is Verdict.OK and one.manner in ("stream", "whole")]
    ends = [(one.end_s, one.end_s - one.begin_s) for one in well]
    firsts = [(one.end_s, one.first_s - one.begin_s) for one in well if one.first_s and one.manner == "stream"]
    for values, name, colour in ((ends, "to the end", "#2c7fb8"), (firsts, "to the first token", "#31a354")):
        for share, style in ((0.5, "-"), (0.95, ":")):
            axes.plot(
                *_by_bin(values, width_s, partial(_share, share)),
                style,
                color=colour,
                label=f"{name}, p{share * 100:.0f}",
            )
    axes.set_yscale("log")
    axes.set_ylabel("s")
    axes.legend(loc="upper left", fontsize=7, ncols=4)


def _share(share: float, values: Sequence[float]) -> float:
    return percentile(values, share)


def _by_bin(
    values: Iterable[tuple[float, float]], width_s: float, of: Callable[[Sequence[float]], float]
) -> tuple[list[float], list[float]]:
    bins: dict[int, list[float]] = defaultdict(list)
    for at_s, value in values:
        bins[int(at_s / width_s)].append(value)
    places = sorted(bins)
    return [(place + 0.5) * width_s for place in places], [of(bins[place]) for place in places]


def _draw_queue(axes: Axes, result: Result) -> None:
    samples = result.samples.clusters
    at_s = [sample.at_s for sample in samples]
    for name, values in (
        ("open at clients", [sample.num_open for sample in samples]),
        ("running on workers", [sample.num_running for sample in samples]),
        ("waiting on workers", [sample.num_waiting for sample in samples]),
        ("KV transfers", [sample.num_transfers for sample in samples]),
    ):
        axes.plot(at_s, values, label=name, linewidth=1)
    axes.set_ylabel("requests")
    axes.legend(loc="upper left", fontsize=7, ncols=4)


def _draw_kinds(
    axes: Axes, samples: Sequence[ProcessSample], value: Callable[[ProcessSample], float], label: str
) -> None:
    from matplotlib import colormaps

    lives: dict[tuple[str, int], list[ProcessSample]] = defaultdict(list)
    for sample in samples:
        lives[sample.kind, sample.pid].append(sample)
    kinds = sorted({kind for kind, _ in lives} - {"idle", "other"})[:MAX_KINDS]
    colours = {kind: colormaps["tab20"](place) for place, kind in enumerate(kinds)}
    named: set[str] = set()
    for (kind, _), lived in lives.items():
        if kind in colours:
            name = "_" if kind in named else kind
            named.add(kind)
            at_s = [sample.at_s for sample in lived]
            axes.plot(at_s, [value(sample) for sample in lived], color=colours[kind], label=name, linewidth=1)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def _draw_blocks(axes: Axes, result: Result) -> None:
    samples = result.samples.clusters
    at_s = [sample.at_s for sample in samples]
    for state, colour in (("used", "#d7191c"), ("quarantined", "#7a0177"), ("free", "#1a9641")):
        values = [sum(worker[state] for worker in sample.blocks.values()) for sample in samples]
        axes.plot(at_s, values, color=colour, label=f"{state} (free: cached ones too)" if state == "free" else state)
    axes.set_ylabel("blocks of all workers")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", fontsize=7)
