"""Whether a measure of a kind of process is flat: a robust slope over the second half of a run. Pure.

Processes of a kind come and go, and each is young once: of each alone the slope is taken, of the time after its youth.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

MIN_POINTS = 6
YOUTH_S = 45.0  # a process that has just started takes its libraries, arenas and caches first
MAX_POINTS = 150  # of one process that pairs are made of; slopes are of all pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """By how much a measure may grow: `share` of its median over the half that is looked at, in proportion to the time
    that a process lived of it, and `more` whenever.
    """

    share: float
    more: float
    why: str


Series = dict[tuple[str, int], list[tuple[float, float]]]  # kind and pid -> time, value
MIB = float(1 << 20)
ALLOWANCES: Mapping[str, Allowance] = {
    "anonymous": Allowance(
        share=0.04,
        more=6 * MIB,
        why="arenas and caches of an allocator settle for some minutes, and buffers grow with what is open at once; a "
        "leak of 2 KiB a request is past it in half an hour at 10 requests/s",
    ),
    "fds": Allowance(share=0.05, more=4, why="as many connections may be open by chance at the end as at the middle"),
    "threads": Allowance(share=0.05, more=3, why="pools of threads grow to a bound with what is open at once"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Of one kind and measure; `growth` and `allowed` over `span_s`, in the measure's unit."""

    kind: str
    measure: str
    middle: float  # the median
    growth: float
    allowed: float
    span_s: float  # of the process that it was taken of
    pid: int

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.allowed


def trends(
    points: Iterable[tuple[str, int, float, float]], measure: str, begin_s: float, end_s: float
) -> tuple[list[Trend], list[str]]:
    """
    Args:
        points: Kind, pid, at_s, value; of the whole run, so that a process's age is known.
        begin_s: Of the half that is looked at.
    Returns:
        One trend for each kind, of its process that grew most; and kinds of which none lived long enough.
    """
    series: Series = defaultdict(list)
    for kind, pid, at_s, value in points:
        series[kind, pid].append((at_s, value))
    found: dict[str, Trend] = {}
    kinds: set[str] = set()
    for (kind, pid), lived in series.items():
        seen = grown_up(lived, begin_s, end_s)
        if not any(begin_s <= at_s <= end_s for at_s, _ in lived):
            continue
        kinds.add(kind)
        span_s = seen[-1][0] - seen[0][0] if seen else 0.0
        if len(seen) < MIN_POINTS or span_s < (end_s - begin_s) / 3:
            continue
        trend = _trend(kind, pid, measure, seen, end_s - begin_s)
        if lived[0][0] > begin_s:
            trend = _held_to(trend, seen, list(_elders(series, kind, lived[0][0])))
        if kind not in found or trend.growth - trend.allowed > found[kind].growth - found[kind].allowed:
            found[kind] = trend
    return [found[kind] for kind in sorted(found)], sorted(kinds - found.keys())


def grown_up(lived: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> list[tuple[float, float]]:
    """What of a process's samples counts: in the half, after its youth."""
    from_s = max(begin_s, lived[0][0] + YOUTH_S)
    return [(at_s, value) for at_s, value in lived if from_s <= at_s <= end_s]


def _elders(series: Series, kind: str, born_s: float) -> Iterator[float]:
    """What processes of a kind held that were there before."""
    for (found, _), lived in series.items():
        if found == kind and lived[0][0] < born_s:
            yield from (value for _, value in lived)


def _held_to(trend: Trend, seen: Sequence[tuple[float, float]], elders: Sequence[float]) -> Trend:
    """A process that is new in the half may grow to what one before it held: what it is above that counts."""
    if not elders:
        return trend
    above = median(value for _, value in seen[-3:]) - max(elders)
    return replace(trend, growth=min(trend.growth, max(0.0, above)))


def _trend(kind: str, pid: int, measure: str, seen: Sequence[tuple[float, float]], half_s: float) -> Trend:
    middle = median(value for _, value in seen)
    allowance = ALLOWANCES[measure]
    span_s = seen[-1][0] - seen[0][0]
    return Trend(
        kind=kind,
        measure=measure,
        middle=middle,
        growth=slope(seen) * span_s,
        allowed=allowance.share * middle * span_s / half_s + allowance.more,
        span_s=span_s,
        pid=pid,
    )


def slope(seen: Sequence[tuple[float, float]]) -> float:
    """Per second: the median over all pairs (Theil and Sen), so that single samples do not count."""
    step = -(-len(seen) // MAX_POINTS)
    points = seen[::step]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for place, earlier in enumerate(points)
        for later in points[place + 1 :]
        if later[0] > earlier[0]
    ]
    return median(slopes) if slopes else 0.0
