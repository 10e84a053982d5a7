"""Draws the arrivals of a trial from a long workload: a trace, or a synthetic one.

A worker that serves a share of the workload's rate sees every so-manieth of its requests, not all of them slower: the
arrivals are thinned at random, so bursts of the whole get weaker for the one. Above the workload's own rate they are
pressed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from baton.errors import ConfigError
from cluster.contracts.simulation import Arrival
from cluster.planner.load.workload import mean_rate, rescale


@dataclass(frozen=True, slots=True)
class SampledWorkload:
    """`base`: the whole workload at the plan's rate, in order, two requests at least.

    Where requests share prefixes their order is kept. Else lengths are drawn from all of `base` without replacement,
    so that a short trial meets long requests as often as a long one does.
    """

    base: Sequence[Arrival]
    rate: float = field(init=False)

    def __post_init__(self) -> None:
        if len(self.base) < 2:
            raise ConfigError(f"{len(self.base)} request makes no workload; give at least two")
        object.__setattr__(self, "rate", mean_rate(self.base))

    def arrivals(self, *, rate: float, num_requests: int, seed: int) -> list[Arrival]:
        """At exactly `rate` on average; `base` is repeated where it is shorter. Equal for equal arguments."""
        rng = np.random.default_rng(seed)
        kept = [arrival for arrival, lot in zip(self.base, self._lots(rng), strict=True) if lot < rate / self.rate]
        kept = kept if len(kept) >= 2 else list(self.base)
        if not any(arrival.block_hashes for arrival in self.base):
            kept = self._with_lengths(kept, rng, num_requests)
        return rescale(_cycled(kept, max(num_requests, 2)), rate)

    def _lots(self, rng: np.random.Generator) -> list[float]:
        lots: list[float] = rng.random(len(self.base)).tolist()
        return lots

    def _with_lengths(self, kept: list[Arrival], rng: np.random.Generator, num_requests: int) -> list[Arrival]:
        order = rng.permutation(len(self.base)).tolist()
        timed = _cycled(kept, max(num_requests, 2))
        return [replace(self.base[order[index % len(order)]], at_s=arrival.at_s) for index, arrival in enumerate(timed)]


def _cycled(arrivals: Sequence[Arrival], count: int) -> list[Arrival]:
    """The first `count`, begun again after the last as often as needed."""
    span_s = (arrivals[-1].at_s - arrivals[0].at_s) * len(arrivals) / (len(arrivals) - 1)
    rounds = (divmod(index, len(arrivals)) for index in range(count))
    return [replace(arrivals[place], at_s=arrivals[place].at_s + turn * span_s) for turn, place in rounds]
