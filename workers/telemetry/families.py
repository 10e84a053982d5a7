"""Families of Prometheus of what workers told last. Nobody is asked here, so nobody is waited for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from prometheus_client.metrics_core import Metric

from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_DRAFT, ROLE_MIXED, ROLE_PREFILL, Measures, WorkerState
from workers.telemetry.described import Bars as Counted
from workers.telemetry.described import Described, Labels, Sample
from workers.telemetry.worker_bars import BARS, Bars
from workers.telemetry.worker_rows import OWN, ROWS, Row

_ROLES = {ROLE_PREFILL: "prefill", ROLE_DECODE: "decode", ROLE_MIXED: "mixed", ROLE_DRAFT: "draft"}


class Told(NamedTuple):
    """By one worker.

    Attributes:
        measures: The last ones, which a state need not have.
        model: What its model is called here.
    """

    worker_id: str
    state: WorkerState
    measures: Measures
    model: str

    @property
    def labels(self) -> Labels:
        return (self.worker_id, _ROLES.get(self.state.role, ""), self.model)


def of_itself(state: WorkerState) -> Told:
    return Told(state.worker_id, state, state.measures, state.served_name)


def worker_families(told: Sequence[Told]) -> list[Metric]:
    families = [_row(row, told) for row in ROWS]
    return families + [_bars(bars, told) for bars in BARS]


def worker_metrics() -> Iterator[Described]:
    """With the labels that all of them have."""
    for described in (*(row.described for row in ROWS), *(bars.described for bars in BARS)):
        yield _own(described)


def _own(one: Described) -> Described:
    return replace(one, labels=(*OWN, *one.labels))


def _row(row: Row, told: Sequence[Told]) -> Metric:
    return _own(row.described).family(_samples(row, told))


def _samples(row: Row, told: Iterable[Told]) -> Iterator[Sample]:
    for one in told:
        for labels, value in row.values(one.state, one.measures):
            yield (*one.labels, *labels), value


def _bars(bars: Bars, told: Sequence[Told]) -> Metric:
    return _own(bars.described).histogram(_histograms(bars, told))


def _histograms(bars: Bars, told: Iterable[Told]) -> Iterator[Counted]:
    for one in told:
        for labels, histogram in bars.histograms(one.measures):
            yield (*one.labels, *labels), bars.bounds, histogram.counts, histogram.sum
