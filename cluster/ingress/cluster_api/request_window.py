"""How the requests of the last minutes went, in slices of STEP_S: of one replica, and of several together.

Slices are numbered by the wall clock, which replicas share; a request belongs to the slice in which it ended.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.contracts.finished import CANCELLED, OK, FinishedRequest
from cluster.contracts.slo import SLO
from cluster.ingress.cluster_api import histogram

STEP_S, NUM_STEPS = 5.0, 120  # ten minutes


@dataclass(slots=True)
class Slice:
    """Counts of requests. Of `ttft` and `tpot`: class of a histogram of s -> how many."""

    num_ended: int = 0
    num_failed: int = 0  # neither answered nor left by their clients
    num_met: int = 0  # both times within the SLO
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    ttft: Counter[int] = field(default_factory=Counter)
    tpot: Counter[int] = field(default_factory=Counter)

    def add(self, one: FinishedRequest, slo: SLO) -> None:
        self.num_ended += 1
        self.num_failed += one.status not in (OK, CANCELLED)
        self.num_met += one.meets(slo)
        self.num_prompt_tokens += one.num_prompt_tokens
        self.num_cached_tokens += one.num_cached_tokens
        self.num_output_tokens += one.num_output_tokens
        if one.ttft_s is not None:
            histogram.add(self.ttft, one.ttft_s)
        if one.tpot_s is not None:
            histogram.add(self.tpot, one.tpot_s)

    def join(self, other: "Slice") -> None:
        for name in ("num_ended", "num_failed", "num_met", "num_prompt_tokens", "num_cached_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.num_output_tokens += other.num_output_tokens
        self.ttft.update(other.ttft)
        self.tpot.update(other.tpot)


class RequestWindow:
    """`clock`: s since the epoch."""

    def __init__(self, slo: SLO, clock: Callable[[], float] = time.time) -> None:
        self.slo = slo
        self._clock = clock
        self._slices: dict[int, Slice] = {}

    def tell(self, one: FinishedRequest) -> None:
        """Some 3 us for each request (Intel Xeon, Sapphire Rapids)."""
        number = number_of(self._clock())
        found = self._slices.get(number)
        if found is None:
            found = self._slices[number] = Slice()
            for old in [one for one in self._slices if one <= number - NUM_STEPS]:
                del self._slices[old]
        found.add(one, self.slo)

    def slices(self, since: int = 0) -> Mapping[int, Slice]:
        """Those with numbers from `since` on; borrowed."""
        return {number: one for number, one in self._slices.items() if number >= since}


def number_of(at_s: float) -> int:
    """Of the slice in which this time, since the epoch, lies."""
    return int(at_s // STEP_S)


def joined(parts: Iterable[Mapping[int, Slice]]) -> dict[int, Slice]:
    whole: dict[int, Slice] = {}
    for part in parts:
        for number, one in part.items():
            whole.setdefault(number, Slice()).join(one)
    return whole
