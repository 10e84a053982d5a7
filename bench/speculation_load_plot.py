"""The picture of `bench.speculation_load`: drafts per decode, acceptance and tokens a second while the load changes."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from bench.speculation_load_side import Slice

COLORS = ("tab:blue", "tab:gray", "tab:green", "tab:orange", "tab:red")
NUM_PLACES = 3  # of a draft, whose acceptance is drawn


def draw(slices: Mapping[str, Sequence[Slice]], loads: Sequence[int], title: str, path: Path) -> None:
    """Writes a picture of the kind that the suffix of `path` names.

    Args:
        slices: Of each side, the one that chooses first; in order of time.
        loads: Answers at once, of each slice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    auto = next(iter(slices.values()))
    ends_s = [0.0, *accumulate(one.took_s for one in auto)]
    at_s = [(begin_s + end_s) / 2 for begin_s, end_s in pairwise(ends_s)]
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    drafts, acceptance, rates = figure.subplots(3, 1, sharex=True)
    drafts.plot(at_s, [one.drafts_per_decode for one in auto], ".-", color=COLORS[0])
    drafts.set(ylabel="drafts per decode", ylim=(0, None))
    for place in range(NUM_PLACES):
        shares = [one.share_right(place) for one in auto]
        known = [(middle_s, share) for middle_s, share in zip(at_s, shares, strict=True) if share is not None]
        acceptance.plot(
            [middle_s for middle_s, _ in known], [share for _, share in known], ".-", label=f"place {place + 1}"
        )
    acceptance.set(ylabel="share of drafts right", ylim=(0, 1.02))
    for (name, turns), color in zip(slices.items(), COLORS, strict=False):
        rates.plot(at_s, [one.rate for one in turns], ".-", color=color, label=name, linewidth=2 - (name != "auto"))
    rates.set(ylabel="tokens/s", yscale="log", xlabel="s of auto's own steps; others at the same place of the load")
    for axes in (drafts, acceptance, rates):
        for place in (place for place in range(1, len(loads)) if loads[place] != loads[place - 1]):
            axes.axvline(ends_s[place], color="lightgray", linewidth=0.8, zorder=0)
        axes.grid(axis="y", alpha=0.3)
    acceptance.legend(fontsize=8, loc="lower right")
    rates.legend(fontsize=8, loc="lower right", ncols=len(slices))
    _name_stages(drafts.secondary_xaxis("top"), ends_s, loads)
    drafts.set_xlim(0, ends_s[-1])
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def _name_stages(axis: Any, ends_s: Sequence[float], loads: Sequence[int]) -> None:
    """Each at its middle."""
    bounds = [0, *(at for at in range(1, len(loads)) if loads[at] != loads[at - 1]), len(loads)]
    middles_s = [(ends_s[begin] + ends_s[end]) / 2 for begin, end in pairwise(bounds)]
    axis.set_xticks(middles_s, [str(loads[begin]) for begin in bounds[:-1]], fontsize=8)
    axis.set_xlabel("answers at once")
