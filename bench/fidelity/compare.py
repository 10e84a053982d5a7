"""What is compared of a run: joint attainment, percentiles of TTFT and TPOT, and each request with itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.contracts.simulation import RequestRecord

Array = npt.NDArray[np.float64]
Latencies = tuple[Array, Array]  # TTFT and TPOT of each request in ms; nan where it failed

BLUR = 0.05  # of a limit: a request so far within it counts 73 %
MAX_LOG_ERROR = 0.3  # beyond it a request counts no more: past saturation each follows the last digit of everything


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
    num_requests: int = 0
    soft_error: float = 0.0  # of attainment, in points, with blurred limits: smooth in what is predicted
    request_error: float = 0.0  # mean |log(predicted / measured)| of single requests, of TTFT and of TPOT

    @property
    def attainment_error(self) -> float:
        """Predicted less measured, in points."""
        return self.predicted.attainment - self.measured.attainment

    @property
    def errors(self) -> tuple[float, ...]:
        """Of TTFT P50, P90 and TPOT P50, P90: predicted over measured, less 1."""
        pairs = zip(self.predicted.percentiles, self.measured.percentiles, strict=True)
        return tuple(predicted / measured - 1 for predicted, measured in pairs)


def compare(
    name: str, *, fitted: bool, measured: Latencies, predicted: Latencies, limits_ms: tuple[float, float]
) -> Comparison:
    """The same requests, in the same order."""
    return Comparison(
        name=name,
        fitted=fitted,
        measured=summarize(*measured, limits_ms),
        predicted=summarize(*predicted, limits_ms),
        num_requests=len(measured[0]),
        soft_error=_soft_attainment(predicted, limits_ms) - _soft_attainment(measured, limits_ms),
        request_error=float(np.mean([_log_error(*pair) for pair in zip(predicted, measured, strict=True)])),
    )


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


def latencies_ms(records: Sequence[RequestRecord]) -> Latencies:
    """TTFT and TPOT of simulated requests, in the order of `records`."""
    ttft = np.array([record.ttft_s for record in records]) * 1e3
    return ttft, np.array([record.tpot_s for record in records]) * 1e3


def mean_attainment_error(comparisons: Sequence[Comparison]) -> float:
    """Mean absolute error in points."""
    return float(np.mean([abs(comparison.attainment_error) for comparison in comparisons]))


def _soft_attainment(latencies: Latencies, limits_ms: tuple[float, float]) -> float:
    shares = np.ones(len(latencies[0]))
    for values, limit_ms in zip(latencies, limits_ms, strict=True):
        shares /= 1 + np.exp(np.clip((values / limit_ms - 1) / BLUR, None, 50.0))
    return 100 * float(np.mean(np.nan_to_num(shares)))


def _log_error(predicted: Array, measured: Array) -> float:
    """Of the requests that have both; TPOT is 0 for one token."""
    both = (predicted > 0) & (measured > 0)
    if not both.any():
        return MAX_LOG_ERROR
    return float(np.mean(np.minimum(np.abs(np.log(predicted[both] / measured[both])), MAX_LOG_ERROR)))
