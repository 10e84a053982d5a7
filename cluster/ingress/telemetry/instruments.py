"""What an ingress counts with: plain numbers of its one event loop, so that a token costs 0.2 us and no lock.

Every family is bounded: label values beyond `max_children` sets are counted together as `other`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client.metrics_core import Metric

from workers.telemetry.described import Described
from workers.telemetry.histogram import Histogram

OTHER = "other"
MAX_CHILDREN = 4096


class Number:
    """A counter or gauge with its labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def dec(self) -> None:
        self.value -= 1.0


C = TypeVar("C")


class _Children(Generic[C]):
    def __init__(self, described: Described, make: Callable[[], C], max_children: int = MAX_CHILDREN) -> None:
        self.described = described
        self._make = make
        self._max_children = max_children
        self._children: dict[tuple[str, ...], C] = {}
        if not described.labels:
            self.labels()

    def labels(self, *values: str) -> C:
        """Values in the order of the description's label names."""
        child = self._children.get(values)
        if child is None:
            assert len(values) == len(self.described.labels), f"{self.described.name}: {values}"
            if len(self._children) >= self._max_children:
                values = (OTHER,) * len(values)
            child = self._children.setdefault(values, self._make())
        return child


class Numbers(_Children[Number]):
    def __init__(self, described: Described, max_children: int = MAX_CHILDREN) -> None:
        super().__init__(described, Number, max_children)

    def collect(self) -> Metric:
        return self.described.family((labels, child.value) for labels, child in self._children.items())


class Histograms(_Children[Histogram]):
    def __init__(self, described: Described, bounds: Sequence[float], max_children: int = MAX_CHILDREN) -> None:
        super().__init__(described, lambda: Histogram(bounds), max_children)

    def collect(self) -> Metric:
        return bars(self.described, self._children)


def bars(described: Described, histograms: Mapping[tuple[str, ...], Histogram]) -> Metric:
    return described.histogram((labels, h.bounds, h.counts, h.sum) for labels, h in histograms.items())
