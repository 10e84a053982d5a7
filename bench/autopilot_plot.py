"""The picture of `bench.autopilot`: attainment, and who does what, over the day."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.autopilot_day import DAY_S, HOUR_S, HOURS, answers_share


def draw(
    path: Path,
    static: dict[str, Any],
    hindsight: Sequence[int],
    roles: dict[str, Any],
    number: dict[str, Any] | None,
    *,
    title: str,
) -> None:
    """Writes a picture of the kind that the suffix of `path` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    if number is None:
        upper, middle = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1.4))
        lower = middle
    else:
        upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1.4, 1.2))
    hours = [2 * slot + 1.0 for slot in range(HOURS // 2)]
    counts = [max(count, 1) for _, count in static["hours"]]
    lines = [
        ("hindsight", list(hindsight), "k:"),
        ("static best", [good for good, _ in static["hours"]], "C7-"),
        ("autopilot, roles", [good for good, _ in roles["hours"]], "C0o-"),
    ]
    if number is not None:
        lines.append(("autopilot, roles and number", [good for good, _ in number["hours"]], "C1.-"))
    for label, good, style in lines:
        upper.plot(hours, [100 * one / count for one, count in zip(good, counts, strict=True)], style, label=label)
    upper.set(ylabel="% within both limits", ylim=(0, 102))
    upper.set_title(title, fontsize=9)
    upper.legend(fontsize=8, loc="lower left")
    _steps(middle, roles, "autopilot, roles")
    if number is not None:
        _steps(lower, number, "autopilot, roles and number")
    share = upper.twinx() if number is None else lower.twinx()
    share.plot(hours, [100 * answers_share(hour) for hour in hours], "C2--", linewidth=1)
    share.set_ylabel("% long answers", color="C2")
    share.set_ylim(0, 100)
    rate = middle.twinx()
    rate.plot(hours, [count / (2 * HOUR_S) for count in counts], "C3--", linewidth=1)
    rate.set_ylabel("requests/s", color="C3")
    rate.set_ylim(0, None)
    lower.set_xlabel("hour of the day")
    lower.set_xlim(0, HOURS)
    for axes in figure.axes[: 2 if number is None else 3]:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _steps(axes: Any, part: dict[str, Any], title: str) -> None:
    times = [0.0, *(at_s / HOUR_S for at_s, _, _ in part["setups"]), DAY_S / HOUR_S]
    first, last = part["setups"][0], part["setups"][-1]
    setups = [first, *part["setups"], last]
    for place, label, colour in ((1, "prefill", "#d95f02"), (2, "decode", "#1f78b4")):
        axes.step(times, [setup[place] for setup in setups], where="post", label=label, color=colour)
    axes.set(ylabel="workers", ylim=(0, 0.4 + max(setup[1] + setup[2] for setup in setups)))
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7, loc="upper left")
