"""Whether the simulation agrees with reality well enough to act on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.contracts.slo import SLO
from cluster.planner.online.judge import Outcome
from cluster.planner.online.observation import SeenRequest

NUM_LOOKS = 2  # in a row, before a mind is changed
MIN_COMPARED = 10  # requests
FULL = 2.0  # times a limit: beyond, how long a queue has grown says little
LEAST = 0.25  # of a limit: errors are relative to so much at least
WARM = 0.4  # share of the requests that found a fuller fleet than the simulation of them began with


@dataclass(slots=True)
class Trust:
    """Args:
    max_error: Above it, twice in a row, nothing is trusted until it was below as often.
    """

    max_error: float
    is_given: bool = True
    error: float | None = None
    _num_against: int = 0

    def note(self, error: float) -> bool:
        """Whether that changed its mind."""
        self.error = error
        agrees = error <= self.max_error
        self._num_against = 0 if agrees is self.is_given else self._num_against + 1
        if self._num_against < NUM_LOOKS:
            return False
        self.is_given, self._num_against = agrees, 0
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Medians in s, and attainment, of the same requests: measured and simulated."""

    ttft_s: tuple[float, float]
    tpot_s: tuple[float, float]
    attainment: tuple[float, float]
    error: float

    def __str__(self) -> str:
        ttft, tpot = ([value * 1e3 for value in pair] for pair in (self.ttft_s, self.tpot_s))
        return (
            f"TTFT {ttft[0]:.0f} ms measured, {ttft[1]:.0f} ms simulated, TPOT {tpot[0]:.1f} and {tpot[1]:.1f} ms, "
            f"attainment {self.attainment[0]:.0%} and {self.attainment[1]:.0%}"
        )


def compare(requests: Sequence[SeenRequest], simulated: Outcome, slo: SLO) -> Comparison | None:
    """The worse of both errors; None: too few requests have ended.

    Medians are compared within twice their limits, relative to what was measured, or to a quarter of the limit where
    that is more: nobody cares whether a first token took 5 ms or 8.

    Args:
        requests: The load that was simulated, in its order.
    """
    pairs = list(zip(requests, simulated.ttft_s, simulated.tpot_s, strict=True))[int(WARM * len(requests)) :]
    done = [
        (one, ttft_s, tpot_s) for one, ttft_s, tpot_s in pairs if one.ttft_s is not None and one.ended_s is not None
    ]
    if len(done) < MIN_COMPARED:
        return None
    ttft = _medians([(one.ttft_s or 0.0, ttft_s) for one, ttft_s, _ in done])
    written = [(one.tpot_s, tpot_s) for one, _, tpot_s in done if one.tpot_s is not None]
    tpot = _medians(written) if written else (0.0, 0.0)
    served = [one.was_served(slo) for one, _, _ in done]
    met = [slo.is_met(ttft_s, tpot_s) for _, ttft_s, tpot_s in done]
    shares = (float(np.mean(served)), float(np.mean(met)))
    error = max(_error(ttft, slo.ttft_s), _error(tpot, slo.tpot_s))
    return Comparison(ttft_s=ttft, tpot_s=tpot, attainment=shares, error=error)


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return float(np.median([one for one, _ in pairs])), float(np.median([other for _, other in pairs]))


def _error(pair: tuple[float, float], limit_s: float) -> float:
    measured, simulated = (min(value, FULL * limit_s) if math.isfinite(value) else FULL * limit_s for value in pair)
    return abs(simulated - measured) / max(measured, LEAST * limit_s)
