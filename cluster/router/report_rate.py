"""How often workers shall report their load to an ingress: the more of them, the less often each.

A message costs an ingress some 0.1 ms, whatever is in it; a worker that has nothing new sends one a second.
"""

import math

MAX_REPORTS_PER_S = 1000.0  # of all workers together, while `MAX_INTERVAL_S` allows it
MIN_INTERVAL_S = 0.05
MAX_INTERVAL_S = 1.0  # as often as workers say that they live


def report_interval_s(num_workers: int) -> float:
    """Least time between two reports of one worker; in steps of 2, so that it seldom changes while workers come."""
    wanted_s = num_workers / MAX_REPORTS_PER_S
    if wanted_s <= MIN_INTERVAL_S:
        return MIN_INTERVAL_S
    return min(MIN_INTERVAL_S * 2.0 ** math.ceil(math.log2(wanted_s / MIN_INTERVAL_S)), MAX_INTERVAL_S)
