"""The picture of `bench.goodput`: attainment against rate, measured and simulated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.goodput_probe import Curve
from cluster.contracts.slo import SLO

COLORS = ("tab:blue", "tab:orange", "tab:green")


def draw(curves: Sequence[Curve], predicted: Mapping[str, Curve], slo: SLO, title: str, path: Path) -> None:
    """Writes a picture of the kind that the suffix of `path` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve, color in zip(curves, COLORS, strict=False):
        for one, style, label in (
            (curve, "o-", f"{curve.name}: {curve.goodput:.2f}/s"),
            (predicted.get(curve.name), "x--", "simulated"),
        ):
            if one is None:
                continue
            probes = sorted(one.probes, key=lambda probe: probe.rate)
            told = label if one is curve else f"{curve.name}, simulated: {one.goodput:.2f}/s"
            axes.plot(
                [probe.rate for probe in probes],
                [100 * probe.attainment for probe in probes],
                style,
                color=color,
                label=told,
                alpha=1.0 if one is curve else 0.6,
            )
    axes.axhline(100 * slo.attainment, color="gray", linewidth=1)
    axes.set(
        xlabel="requests/s",
        ylabel=f"% with TTFT <= {slo.ttft_s * 1e3:g} ms, TPOT <= {slo.tpot_s * 1e3:g} ms",
        ylim=(0, 102),
        xlim=(0, None),
    )
    axes.set_title(title, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
