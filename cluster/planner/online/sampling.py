"""Makes the load that is simulated of requests that were seen: real ones drawn again, never a mean.

Two-humped lengths stay two-humped, bursts stay bursts: gaps are those of the window, in their order.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from cluster.contracts.simulation import Arrival
from cluster.planner.online.observation import SeenRequest

NEAR = 8  # whole answers to prompts of like length, one of which stands for what an open request has still to write


def with_answers(requests: Sequence[SeenRequest], rng: np.random.Generator) -> list[tuple[SeenRequest, int]]:
    """Each request with the length of its answer: its own, or, of one that did not end by itself, that of a whole
    one whose prompt is about as long, at least what it has written.

    Only what has ended would be short answers alone, just when long ones begin to come.
    """
    whole = sorted((one for one in requests if one.is_whole), key=lambda one: one.num_prompt_tokens)
    keys = [one.num_prompt_tokens for one in whole]
    return [(one, one.num_output_tokens if one.is_whole else _guess(one, whole, keys, rng)) for one in requests]


def _guess(one: SeenRequest, whole: list[SeenRequest], keys: list[int], rng: np.random.Generator) -> int:
    written = max(one.num_output_tokens, 1)
    place = bisect_left(keys, one.num_prompt_tokens)
    near = whole[max(place - NEAR // 2, 0) : place + NEAR // 2]
    longer = [other.num_output_tokens for other in near if other.num_output_tokens >= written]
    return int(rng.choice(longer)) if longer else written


def sampled(
    requests: Sequence[tuple[SeenRequest, int]], *, rate: float, num_requests: int, block_size: int, seed: int
) -> tuple[Arrival, ...]:
    """`num_requests` to come at `rate` on average, lengths drawn from `requests`, with replacement.

    The newest is drawn most often, the oldest hardly ever: what comes next is like what came last.

    Args:
        requests: In order of arrival, with the lengths of their answers.
    """
    if not requests or rate <= 0 or num_requests < 1:
        return ()
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(_gaps(requests, num_requests, rng)) / rate
    newer = np.arange(1, len(requests) + 1)
    chosen = rng.choice(len(requests), num_requests, p=newer / newer.sum()).tolist()
    return tuple(
        _arrival(at_s, requests[index][0], requests[index][1], block_size)
        for at_s, index in zip(times_s.tolist(), chosen, strict=True)
    )


def _gaps(requests: Sequence[tuple[SeenRequest, int]], count: int, rng: np.random.Generator) -> np.ndarray:
    """Of mean 1: a run of those that were seen, begun anywhere and begun again; else exponential ones."""
    seen = np.diff(np.array([one.arrived_s for one, _ in requests]))
    if len(seen) < NEAR or seen.sum() <= 0:
        return rng.exponential(1.0, count)
    run = np.roll(seen, -int(rng.integers(len(seen))))
    gaps = np.resize(run, count)
    total = gaps.sum()
    return gaps * (count / total) if total > 0 else rng.exponential(1.0, count)


def replayed(requests: Sequence[tuple[SeenRequest, int]], *, block_size: int) -> tuple[Arrival, ...]:
    """The very requests, in order of arrival; the first one comes at 0."""
    if not requests:
        return ()
    first_s = requests[0][0].arrived_s
    return tuple(_arrival(one.arrived_s - first_s, one, length, block_size) for one, length in requests)


def _arrival(at_s: float, one: SeenRequest, num_output_tokens: int, block_size: int) -> Arrival:
    """What was found cached is taken for the beginning of a text that all share."""
    return Arrival(
        at_s=at_s,
        num_prompt_tokens=max(one.num_prompt_tokens, 1),
        num_output_tokens=max(num_output_tokens, 1),
        block_hashes=tuple(range(min(one.num_cached_tokens, one.num_prompt_tokens) // block_size)),
    )


def cut(arrivals: Sequence[Arrival], max_tokens: int) -> tuple[Arrival, ...]:
    """Those that fit a worker: others are refused, whatever is changed."""
    return tuple(one for one in arrivals if one.num_prompt_tokens + one.num_output_tokens <= max_tokens)


def num_for(rate: float, horizon_s: float, least: int, most: int) -> int:
    """Requests of so long a time, within bounds; none of no load."""
    return min(max(math.ceil(rate * horizon_s), least), most) if rate > 0 else 0
