"""How often values fell into classes, each a tenth wider than the last: percentiles are right within 5 %, and the sum
of several histograms is exact, so that replicas can tell each other theirs."""

import math
from collections import Counter
from collections.abc import Mapping

GROWTH = 1.1
_STEP = math.log(GROWTH)
LEAST = 1e-6  # what is smaller counts as this


def class_of(value: float) -> int:
    """`value` >= 0."""
    return round(math.log(max(value, LEAST)) / _STEP)


def middle(number: int) -> float:
    """Of class `number`."""
    return math.exp(number * _STEP)


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The value that `share` of all do not exceed; None: there are none."""
    total = sum(counts.values())
    if not total:
        return None
    wanted, seen, last = math.ceil(share * total), 0, 0
    for number, count in sorted(counts.items()):
        seen, last = seen + count, number
        if seen >= wanted:
            break
    return middle(last)


def add(counts: Counter[int], value: float) -> None:
    counts[class_of(value)] += 1
