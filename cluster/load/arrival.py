"""When requests of an open loop are due."""

import numpy as np


def gamma_arrivals_s(rate: float, burstiness: float, count: int, rng: np.random.Generator) -> list[float]:
    """Arrival times from the start, ascending.

    Gaps follow a gamma distribution of shape `burstiness` and mean 1 / `rate`: 1 is a Poisson process, less is
    burstier, more is steadier (the meaning of vLLM's benchmark). The times are scaled so that the last request
    is due at count / rate: a short run then offers the rate that it names.
    """
    gaps_s = rng.gamma(shape=burstiness, scale=1.0 / (rate * burstiness), size=count)
    times_s = np.cumsum(gaps_s)
    scaled: list[float] = (times_s * (count / rate / times_s[-1])).tolist()
    return scaled
