"""A span as plain data, with those below it. Times are of `time.monotonic`."""

from dataclasses import dataclass, field
from typing import NamedTuple

Value = str | bool | int | float | tuple[str, ...]


class Event(NamedTuple):
    name: str
    at_s: float
    attributes: tuple[tuple[str, Value], ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class Sketch:
    """`error`: the code of what went wrong; empty: nothing did."""

    name: str
    start_s: float
    end_s: float
    attributes: dict[str, Value] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    error: str = ""
    children: list["Sketch"] = field(default_factory=list)

    def fit(self) -> None:
        """Moves all that is below it within it: workers' times are put on this clock by estimate."""
        start_s = self.start_s
        end_s = self.end_s = max(self.end_s, start_s)
        if self.events:
            self.events = [event._replace(at_s=_between(event.at_s, start_s, end_s)) for event in self.events]
        for child in self.children:
            child.start_s = _between(child.start_s, start_s, end_s)
            child.end_s = _between(child.end_s, start_s, end_s)
            child.fit()


def _between(at_s: float, start_s: float, end_s: float) -> float:
    return min(max(at_s, start_s), end_s)
