"""When a request was served well: both its times within their limits."""

from collections.abc import Iterable
from dataclasses import dataclass

from baton.errors import ConfigError
from cluster.config.schema import SLOConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """`attainment`: the share of requests that must meet **both** limits."""

    ttft_s: float
    tpot_s: float
    attainment: float = 0.9

    def __post_init__(self) -> None:
        for name, limit_s in (("ttft", self.ttft_s), ("tpot", self.tpot_s)):
            if not 0 < limit_s < float("inf"):
                raise ConfigError(f"slo {name} {limit_s * 1000:g} ms must be above 0; give it in ms, for example 200")
        if not 0 < self.attainment <= 1:
            raise ConfigError(
                f"slo attainment {self.attainment:g} must be a share above 0 and up to 1, for example 0.9"
            )

    def is_met(self, ttft_s: float, tpot_s: float) -> bool:
        """False for nan: a request that never came so far met nothing."""
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s


def attainment(slo: SLO, times_s: Iterable[tuple[float, float]]) -> float:
    """Share of requests whose (TTFT, TPOT) in s meet both limits; 0 without requests."""
    met = [slo.is_met(ttft_s, tpot_s) for ttft_s, tpot_s in times_s]
    return sum(met) / len(met) if met else 0.0


def slo_of(config: SLOConfig) -> SLO:
    return SLO(ttft_s=config.ttft_ms / 1000, tpot_s=config.tpot_ms / 1000, attainment=config.attainment)
