"""The requests that `baton plan` and `baton simulate` make up where no trace is given."""

from pathlib import Path

import numpy as np

from baton.errors import ConfigError
from cluster.planner import workload
from cluster.planner.lengths import Constant, Independent, Length, Lognormal
from cluster.simulator.contract import Arrival

INPUT_LEN, OUTPUT_LEN = 512, 128  # tokens, where not given
MEDIAN_SHARE = 0.8  # of the mean: how long-tailed synthetic lengths are


def check_rate(rate: float | None, trace: Path | None) -> None:
    """Raises: ConfigError: no rate at which requests can come, or none where no trace has its own."""
    if rate is not None and not 0 < rate < float("inf"):
        raise ConfigError(f"--rate {rate:g} must be above 0 requests/s, for example 10")
    if rate is None and trace is None:
        raise ConfigError("--rate is needed without --trace; give requests/s, for example --rate 10")


def synthetic_arrivals(
    *,
    rate: float,
    num_requests: int,
    input_len: int | None,
    output_len: int | None,
    gap_cv: float | None,
    rng: np.random.Generator,
) -> list[Arrival]:
    """Mean lengths in tokens; None: the default, for `gap_cv` Poisson."""
    return workload.synthetic(
        Independent(prompt=_length(input_len or INPUT_LEN), output=_length(output_len or OUTPUT_LEN)),
        rate=rate,
        num_requests=num_requests,
        gap_cv=1.0 if gap_cv is None else gap_cv,
        rng=rng,
    )


def _length(mean: int) -> Length:
    median = mean * MEDIAN_SHARE
    return Lognormal(mean=mean, median=median) if median >= 1 else Constant(value=mean)
