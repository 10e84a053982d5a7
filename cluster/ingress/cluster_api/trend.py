"""The last ten minutes as points for plots, one for each slice of `request_window`."""

from collections.abc import Mapping
from typing import Any

from cluster.ingress.cluster_api import histogram
from cluster.ingress.cluster_api.load import LOAD_FIELDS, Load
from cluster.ingress.cluster_api.request_window import NUM_STEPS, STEP_S, Slice

SHARES = (0.5, 0.9, 0.99)
Point = dict[str, Any]


class Trend:
    """Loads are of this replica's own looks; requests come from all replicas."""

    def __init__(self) -> None:
        self._loads: dict[int, Load] = {}

    def add(self, number: int, load: Load) -> None:
        """`number`: of the slice that ends about now."""
        self._loads[number] = load
        for old in [one for one in self._loads if one <= number - NUM_STEPS]:
            del self._loads[old]

    def points(self, slices: Mapping[int, Slice], last: int) -> list[Point]:
        """From the oldest of which something is known to slice `last`, without gaps."""
        known = [number for number in (*self._loads, *slices) if last - NUM_STEPS < number <= last]
        if not known:
            return []
        return [_point(number, self._loads.get(number), slices.get(number)) for number in range(min(known), last + 1)]


def _point(number: int, load: Load | None, ended: Slice | None) -> Point:
    point: Point = {"at_s": number * STEP_S}
    for name in LOAD_FIELDS:
        value = getattr(load, name) if load is not None else None
        point[name] = round(value, 1) if isinstance(value, float) else value
    one = ended or Slice()
    return point | {
        "num_ended": one.num_ended,
        "num_failed": one.num_failed,
        "num_met": one.num_met,
        "ttft_ms": percentiles_ms(one.ttft),
        "tpot_ms": percentiles_ms(one.tpot),
    }


def percentiles_ms(counts: Mapping[int, int]) -> list[float] | None:
    """Those of SHARES."""
    if not counts:
        return None
    return [round((histogram.quantile(counts, share) or 0.0) * 1000, 2) for share in SHARES]
