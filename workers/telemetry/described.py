"""What a metric is, said once: its families and the table of docs/metrics.md are made of it."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isinf

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric


class Kind(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Labels = tuple[str, ...]  # values, in the order of a metric's label names
Sample = tuple[Labels, float]
Bars = tuple[Labels, Sequence[float], Sequence[int], float]  # of a histogram: bounds, counts of each bucket, sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """
    Attributes:
        name: As exported: a counter's ends with `_total`.
        unit: Of its values, in plural; 1: a plain number; ratio: 0 to 1.
    """

    name: str
    kind: Kind
    unit: str
    text: str
    labels: Labels = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its samples."""
        if self.kind is not Kind.HISTOGRAM:
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))

    def family(self, samples: Iterable[Sample]) -> Metric:
        """Of a counter or gauge."""
        family: CounterMetricFamily | GaugeMetricFamily
        if self.kind is Kind.COUNTER:
            family = CounterMetricFamily(self.name.removesuffix("_total"), self.text, labels=self.labels)
        else:
            family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, float(value))
        return family

    def histogram(self, bars: Iterable[Bars]) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, bounds, counts, total in bars:
            if len(counts) == len(bounds) + 1:  # else whoever counted has other bounds
                family.add_metric(labels, _cumulative(bounds, counts), total)
        return family


def counter(name: str, unit: str, text: str, *labels: str) -> Described:
    return Described(name=name, kind=Kind.COUNTER, unit=unit, text=text, labels=labels)


def gauge(name: str, unit: str, text: str, *labels: str) -> Described:
    return Described(name=name, kind=Kind.GAUGE, unit=unit, text=text, labels=labels)


def histogram(name: str, unit: str, text: str, *labels: str) -> Described:
    return Described(name=name, kind=Kind.HISTOGRAM, unit=unit, text=text, labels=labels)


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    told, total = [], 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        told.append(("+Inf" if isinf(bound) else repr(bound), float(total)))
    return told
