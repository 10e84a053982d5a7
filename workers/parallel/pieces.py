"""How a prompt is cut for the ranks that read it together: into contiguous pieces, in the order of the ranks."""

import itertools
import math
from typing import NamedTuple

BISECTIONS = 60


class TokenCosts(NamedTuple):
    """What `cut_prompt` takes by these names."""

    growth: float = 0.0
    first_cost: float = 1.0


def cut_prompt(
    num_tokens: int,
    num_ranks: int,
    *,
    num_cached: int = 0,
    multiple: int = 1,
    growth: float = 0.0,
    first_cost: float = 1.0,
) -> list[range]:
    """Positions of each rank's tokens, together [num_cached, num_cached + num_tokens). Some may be empty.

    Pieces cost the same, up to rounding. A token costs 1 + growth x its position, since attention's keys are all before
    it; on the first rank first_cost + growth x its position, since it has no transition of a delta rule to find.

    Args:
        num_tokens: Tokens to read, >= 0.
        num_cached: Tokens before them, whose state and keys are there.
        multiple: Positions between pieces are multiples of it: a block is not split between ranks.
        growth: >= 0.
        first_cost: > 0.
    Raises:
        ValueError: An argument outside its range.
    """
    for name, value, least in (
        ("num_tokens", num_tokens, 0),
        ("num_ranks", num_ranks, 1),
        ("num_cached", num_cached, 0),
        ("multiple", multiple, 1),
        ("growth", growth, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if first_cost <= 0:
        raise ValueError(f"first_cost is {first_cost}; it must be above 0")
    last = num_cached + num_tokens
    costs = [first_cost] + [1.0] * (num_ranks - 1)
    bounds = [num_cached]
    for ideal in _ideal_ends(num_cached, last, costs, growth)[:-1]:
        bounds.append(min(max(math.ceil(ideal / multiple - 1e-6) * multiple, bounds[-1]), last))
    return [range(start, end) for start, end in itertools.pairwise([*bounds, last])]


def _ideal_ends(first: int, last: int, costs: list[float], growth: float) -> list[float]:
    """Where each rank's piece ends when all cost the same; found by bisecting that cost."""
    low, high = 0.0, max(costs) * (last - first) + growth * last * last / 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _ends(first, middle, costs, growth)[-1] < last else (low, middle)
    return _ends(first, high, costs, growth)


def _ends(start: float, share: float, costs: list[float], growth: float) -> list[float]:
    """Of pieces that cost `share` each: cost x (end - start) + growth x (end^2 - start^2) / 2 = share."""
    ends = []
    for cost in costs:
        whole = share + cost * start + growth * start * start / 2
        start = 2 * whole / (cost + math.sqrt(cost * cost + 2 * growth * whole))
        ends.append(start)
    return ends
