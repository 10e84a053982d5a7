"""Lays a simulation's spans out as bars in lanes: workers above, requests below. Pure; drawing is the commands'.

Thousands of steps make one bar where they are of one kind and follow each other more closely than a picture shows.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.contracts.simulation import TimelineSpan

REQUEST = "request "
MAX_REQUESTS = 60  # lanes; more are thinned out evenly
RESOLUTION = 1500  # bars that one lane can show side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    kind: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    name: str
    bars: tuple[Bar, ...]

    @property
    def is_request(self) -> bool:
        return self.name.startswith(REQUEST)


def lanes(spans: Iterable[TimelineSpan], *, end_s: float, max_requests: int = MAX_REQUESTS) -> list[Lane]:
    """Workers by id, then requests by number, at most `max_requests` of them."""
    by_lane: dict[str, list[TimelineSpan]] = defaultdict(list)
    for span in spans:
        by_lane[span.lane].append(span)
    workers = sorted((name for name in by_lane if not name.startswith(REQUEST)), key=_worker_order)
    requests = sorted((name for name in by_lane if name.startswith(REQUEST)), key=_number)
    shown = [*workers, *_thinned(requests, max_requests)]
    return [Lane(name=name, bars=merged(by_lane[name], min_gap_s=end_s / RESOLUTION)) for name in shown]


def merged(spans: Sequence[TimelineSpan], *, min_gap_s: float) -> tuple[Bar, ...]:
    """Spans of one kind that are less than `min_gap_s` apart become one bar; a bar of another kind ends it."""
    bars: list[Bar] = []
    for span in sorted(spans, key=lambda span: (span.start_s, span.end_s)):
        last = bars[-1] if bars else None
        if last is not None and last.kind == span.kind and span.start_s - last.end_s < min_gap_s:
            bars[-1] = Bar(kind=last.kind, start_s=last.start_s, end_s=max(last.end_s, span.end_s))
        else:
            bars.append(Bar(kind=span.kind, start_s=span.start_s, end_s=span.end_s))
    return tuple(bars)


def _thinned(names: Sequence[str], count: int) -> list[str]:
    if len(names) <= count:
        return list(names)
    return [names[index * len(names) // count] for index in range(count)]


def _number(name: str) -> int:
    return int(name.removeprefix(REQUEST))


def _worker_order(worker_id: str) -> tuple[bool, str, int]:
    """Prefill first, as requests go."""
    role, _, number = worker_id.rpartition("-")
    return role != "prefill", role, int(number) if number.isdecimal() else 0
