"""What is compared of a run: joint attainment, and percentiles of TTFT and TPOT."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.simulator.contract import RequestRecord

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Attainment: share of requests within both limits, in percent; the others in ms."""

    attainment: float
    ttft_p50: float
    ttft_p90: float
    tpot_p50: float
    tpot_p90: float

    @property
    def percentiles(self) -> tuple[float, float, float, float]:
        return (self.ttft_p50, self.ttft_p90, self.tpot_p50, self.tpot_p90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    name: str
    fitted: bool  # the constants saw this run
    measured: Summary
    predicted: Summary

    @property
    def attainment_error(self) -> float:
        """Predicted less measured, in points."""
        return self.predicted.attainment - self.measured.attainment

    @property
    def errors(self) -> tuple[float, ...]:
        """Of TTFT P50, P90 and TPOT P50, P90: predicted over measured, less 1."""
        pairs = zip(self.predicted.percentiles, self.measured.percentiles, strict=True)
        return tuple(predicted / measured - 1 for predicted, measured in pairs)


def summarize(ttft_ms: Array, tpot_ms: Array, limits_ms: tuple[float, float]) -> Summary:
    """One value per request in both arrays; a request that failed has nan and misses both limits.

    Args:
        limits_ms: Of TTFT and TPOT.
    """
    ttft_p50, ttft_p90 = np.nanpercentile(ttft_ms, [50, 90])
    tpot_p50, tpot_p90 = np.nanpercentile(tpot_ms, [50, 90])
    return Summary(
        attainment=100 * float(np.mean((ttft_ms < limits_ms[0]) & (tpot_ms < limits_ms[1]))),
        ttft_p50=float(ttft_p50),
        ttft_p90=float(ttft_p90),
        tpot_p50=float(tpot_p50),
        tpot_p90=float(tpot_p90),
    )


def latencies_ms(records: Sequence[RequestRecord]) -> tuple[Array, Array]:
    """TTFT and TPOT of simulated requests, in the order of `records`."""
    ttft = np.array([record.ttft_s for record in records]) * 1e3
    return ttft, np.array([record.tpot_s for record in records]) * 1e3


def mean_attainment_error(comparisons: Sequence[Comparison]) -> float:
    """Mean absolute error in points."""
    return float(np.mean([abs(comparison.attainment_error) for comparison in comparisons]))
