"""The picture of `bench.rolling`: what each second's requests got, with changes shaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.rolling_load import Asked

if TYPE_CHECKING:
    from bench.rolling import Phase

CALM = ("before", "between", "after")


def draw(phases: "Sequence[Phase]", ttft_s: float, tpot_s: float, path: Path) -> None:
    """Writes a picture of the kind that the suffix of `path` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clusters = list(dict.fromkeys(phase.cluster for phase in phases))
    figure = Figure(figsize=(10, 2.8 * len(clusters)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, cluster in zip(figure.subplots(len(clusters), squeeze=False)[:, 0], clusters, strict=True):
        mine = [phase for phase in phases if phase.cluster == cluster]
        asked = [one for phase in mine for one in phase.asked]
        ends = [one for one in asked if one.token_s]
        axes.scatter([one.due_s for one in ends], [1e3 * one.ttft_s for one in ends], s=6, label="TTFT of a request")
        axes.set(yscale="log", ylabel="TTFT, ms", xlabel="s", title=cluster)
        changes = [phase for phase in mine if phase.name not in CALM]
        for number, phase in enumerate(changes):
            axes.axvspan(phase.begin_s, phase.end_s, alpha=0.15, color=f"C{number + 1}", label=phase.name)
        other = axes.twinx()
        seconds = range(int(mine[-1].end_s))
        good = [_share_of_second(asked, second, ttft_s, tpot_s) for second in seconds]
        other.plot([second + 0.5 for second in seconds], good, color="black", linewidth=1)
        other.set(ylabel=f"% good: TTFT <= {ttft_s:g} s,\nTPOT <= {1e3 * tpot_s:g} ms (line)", ylim=(0, 102))
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.1, 1))
    figure.savefig(path, dpi=110)


def _share_of_second(asked: Sequence[Asked], second: int, ttft_s: float, tpot_s: float) -> float:
    mine = [one for one in asked if second <= one.due_s < second + 1]
    return 100 * sum(one.meets(ttft_s, tpot_s) for one in mine) / len(mine) if mine else float("nan")
