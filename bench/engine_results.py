"""What `bench.engine` found: figures by side and point, and how they compare."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.engine_points import Point, PointKind


@dataclass(slots=True)
class Results:
    """`figures[side][point]`: one per round, in the point's unit."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # side or point -> why

    def median(self, side: str, point: Point) -> float | None:
        values = self.figures.get(side, {}).get(str(point))
        return statistics.median(values) if values else None

    def ratio(self, point: Point, peer: str, mine: str) -> float | None:
        """How many times faster side `mine` is than the peer's fastest side: the median of the rounds' own ratios."""
        ours = self.figures.get(mine, {}).get(str(point), [])
        rivals = [rows[str(point)] for name, rows in self.figures.items() if is_of(name, peer) and str(point) in rows]
        if not ours or not rivals:
            return None
        is_rate = point.kind is PointKind.RAGGED
        rounds = [(own, row) for own, *row in zip(ours, *rivals, strict=False)]
        ratios: list[float] = [own / max(row) if is_rate else min(row) / own for own, row in rounds]
        return statistics.median(ratios)


def is_of(side: str, peer: str) -> bool:
    return side.split()[0] in (peer, f"{peer}-batch")


def line(point: Point, limit: float, sides: Sequence[str], results: Results) -> str:
    """The figures of one point, and each as a share of the limit."""
    parts = [f"{point!s:>16} {point.unit:8} limit {limit:8.1f}"]
    for side in sides:
        median = results.median(side, point)
        parts.append(f"{side} " + ("-" if median is None else f"{median:.1f} ({share(point, limit, median):.0%})"))
    return " | ".join(parts)


def share(point: Point, limit: float, figure: float) -> float:
    """Of what the machine allows."""
    return figure / limit if point.kind is PointKind.RAGGED else limit / figure
