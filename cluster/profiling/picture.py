"""The picture of a profile: measured points and the fits through them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.contracts.latency import PromptChunk
from cluster.planner.costs.fitted import FittedLatency, Profile
from cluster.profiling.points import StepPoint, TransferPoint

_COLOURS = ("#1f4e79", "#d95f02", "#33a02c", "#7570b3", "#e7298a", "#666666", "#a6761d", "#1b9e77")


def draw(profile: Profile, steps: Sequence[StepPoint], transfers: Sequence[TransferPoint], path: Path) -> None:
    """Writes a picture of the kind that the suffix of `path` names: prefill, decode, transfer, and all of the steps.

    Args:
        steps: Of the profile's first degree.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    latency = next(iter(profile.latencies.values()))
    _prefill(axes[0, 0], latency, [point for point in steps if point.kind == "prefill" and len(point.prompts) == 1])
    _decode(axes[0, 1], latency, [point for point in steps if point.kind == "decode"])
    _all(axes[1, 0], latency, steps, profile)
    _transfers(axes[1, 1], profile, transfers)
    for one in axes.flat:
        one.grid(alpha=0.3)
    figure.suptitle(
        f"{profile.model} ({profile.dtype}) on {profile.machine}, {profile.num_cores} per rank", fontsize=10
    )
    figure.savefig(path, dpi=110)


def _prefill(axes: Any, latency: FittedLatency, points: Sequence[StepPoint]) -> None:
    by_context: dict[int, list[StepPoint]] = defaultdict(list)
    for point in points:
        by_context[point.prompts[0][1]].append(point)
    for colour, (context, found) in zip(_COLOURS, sorted(by_context.items()), strict=False):
        sizes = [point.prompts[0][0] for point in found]
        line = range(1, max(sizes) + 1, max(1, max(sizes) // 200))
        axes.scatter(sizes, [point.step_s * 1e3 for point in found], color=colour, s=14, label=f"after {context}")
        predicted = [latency.step_s([PromptChunk(size, context)], 0, 0) * 1e3 for size in line]
        axes.plot(line, predicted, color=colour, linewidth=1)
    axes.set(title="one prompt's step", xlabel="tokens computed", ylabel="ms", xscale="log", yscale="log")
    axes.legend(fontsize=8, title="context")


def _decode(axes: Any, latency: FittedLatency, points: Sequence[StepPoint]) -> None:
    by_batch: dict[int, list[StepPoint]] = defaultdict(list)
    for point in points:
        by_batch[point.num_decodes].append(point)
    widest = sorted(by_batch, key=lambda batch: len(by_batch[batch]))[-len(_COLOURS) :]
    for colour, batch in zip(_COLOURS, sorted(widest), strict=False):
        found = by_batch[batch]
        contexts = [point.num_context / batch for point in found]
        axes.scatter(contexts, [point.step_s * 1e3 for point in found], color=colour, s=14, label=f"{batch}")
        line = [max(contexts) * i / 50 for i in range(51)]
        predicted = [latency.step_s((), batch, round(context * batch)) * 1e3 for context in line]
        axes.plot(line, predicted, color=colour, linewidth=1)
    axes.set(title="decodes alone", xlabel="mean context in tokens", ylabel="ms", yscale="log")
    axes.legend(fontsize=8, title="batch")


def _all(axes: Any, latency: FittedLatency, points: Sequence[StepPoint], profile: Profile) -> None:
    for colour, kind in zip(_COLOURS, ("prefill", "decode", "mixed"), strict=False):
        found = [point for point in points if point.kind == kind]
        predicted = [
            latency.step_s([PromptChunk(*chunk) for chunk in point.prompts], point.num_decodes, point.num_context) * 1e3
            for point in found
        ]
        error = profile.errors.get(kind)
        label = kind if error is None else f"{kind}: off by {error.median:.1%} (median), {error.p90:.1%} (p90)"
        axes.scatter([point.step_s * 1e3 for point in found], predicted, color=colour, s=14, label=label)
    low, high = (pick(point.step_s for point in points) * 1e3 for pick in (min, max))
    axes.plot([low, high], [low, high], color="black", linewidth=1)
    axes.set(title="all steps", xlabel="measured ms", ylabel="fitted ms", xscale="log", yscale="log")
    axes.legend(fontsize=8)


def _transfers(axes: Any, profile: Profile, points: Sequence[TransferPoint]) -> None:
    axes.set(title="KV transfer", xlabel="MB", ylabel="ms")
    for colour, (name, path) in zip(_COLOURS, profile.transfers.items(), strict=False):
        found = [point for point in points if point.transport == name]
        sizes = [point.num_bytes / 1e6 for point in found]
        label = f"{name}: {path.latency_s * 1e3:.2f} ms + {path.bandwidth / 1e9:.2f} GB/s"
        axes.scatter(sizes, [point.transfer_s * 1e3 for point in found], color=colour, s=14, label=label)
        line = [0.0, max(sizes)]
        axes.plot(line, [path.transfer_s(round(size * 1e6)) * 1e3 for size in line], color=colour, linewidth=1)
    if profile.transfers:
        axes.legend(fontsize=8)
