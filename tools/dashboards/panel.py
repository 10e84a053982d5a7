"""What a dashboard says, in few words; `grafana` makes JSON of it."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WIDTH = 24  # of a dashboard, in Grafana's columns
JOB = 'job=~"$job"'  # of the cluster's own scrape: those of single workers have another job
MODEL = f'{JOB},model=~"($model)(@.*)?"'  # versions of a model too
RATE = "$__rate_interval"


class Kind(enum.StrEnum):
    LINES = "timeseries"
    NUMBER = "stat"
    BARS = "bargauge"


class Query(NamedTuple):
    """In PromQL. `legend`: of each series, with {{label}} in it."""

    expression: str
    legend: str = ""


class Step(NamedTuple):
    """From `value` on (None: from the beginning) a panel has this colour."""

    value: float | None
    colour: str


def rising(warn: float, bad: float) -> tuple[Step, ...]:
    """The more, the worse."""
    return Step(None, "green"), Step(warn, "orange"), Step(bad, "red")


def falling(bad: float, warn: float) -> tuple[Step, ...]:
    """The less, the worse."""
    return Step(None, "red"), Step(bad, "orange"), Step(warn, "green")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """
    Attributes:
        text: What it shows and what to make of it.
        unit: Grafana's name of it: s, percentunit, reqps, Bps, short, ...
        is_stacked: Its series are parts of a whole.
        steps: Of colour; empty: each series has its own.
    """

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Kind = Kind.LINES
    width: int = 8
    height: int = 8
    is_stacked: bool = False
    low: float | None = 0
    high: float | None = None
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """`name` is that of its file, and of its place in Grafana: baton-NAME."""

    name: str
    title: str
    text: str
    rows: Sequence[Row]
    tags: Sequence[str] = field(default=("baton",))

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


def number(title: str, text: str, expression: str, unit: str = "short", steps: Sequence[Step] = ()) -> Panel:
    return Panel(
        title=title, text=text, queries=[Query(expression)], unit=unit, kind=Kind.NUMBER, width=4, height=4, steps=steps
    )


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    high: float | None = None,
    is_stacked: bool = False,
    steps: Sequence[Step] = (),
) -> Panel:
    return Panel(
        title=title,
        text=text,
        queries=queries,
        unit=unit,
        width=width,
        high=high,
        is_stacked=is_stacked,
        steps=steps,
    )


def rate(metric: str, selector: str = JOB) -> str:
    return f"rate({metric}{{{selector}}}[{RATE}])"


def total(metric: str, by: str = "", selector: str = JOB) -> str:
    """Per second, of all."""
    return f"sum{_by(by)}({rate(metric, selector)})"


def quantile(share: float, metric: str, by: str = "", selector: str = JOB) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(metric + '_bucket', selector)}))"


def mean(metric: str, by: str = "", selector: str = JOB) -> str:
    return f"{total(metric + '_sum', by, selector)} / {total(metric + '_count', by, selector)}"


def quantiles(metric: str, selector: str = JOB, shares: Sequence[float] = (0.5, 0.9, 0.99)) -> tuple[Query, ...]:
    return tuple(Query(quantile(share, metric, selector=selector), f"p{share * 100:g}") for share in shares)


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else " "
