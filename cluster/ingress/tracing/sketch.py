"""A span as plain data, with those below it. Times are of `time.monotonic`."""

from dataclasses import dataclass, field, replace
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

    def fitted(self) -> "Sketch":
        """The same, with all that is below it within it: workers' times are put on this clock by estimate."""
        end_s = max(self.end_s, self.start_s)
        return replace(
            self,
            end_s=end_s,
            events=[event._replace(at_s=_between(event.at_s, self.start_s, end_s)) for event in self.events],
            children=[child._within(self.start_s, end_s).fitted() for child in self.children],
        )

    def _within(self, start_s: float, end_s: float) -> "Sketch":
        start = _between(self.start_s, start_s, end_s)
        return replace(self, start_s=start, end_s=max(_between(self.end_s, start_s, end_s), start))


def _between(at_s: float, start_s: float, end_s: float) -> float:
    return min(max(at_s, start_s), end_s)
