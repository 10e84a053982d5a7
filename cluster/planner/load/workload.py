"""Makes the arrivals that a simulation plays: from a trace, or synthetic; and scales them to a rate."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from baton.errors import ConfigError
from cluster.contracts.simulation import Arrival
from cluster.planner.load.lengths import Shape
from cluster.planner.load.traces import HASHED_TOKENS, TraceRow, spread_ticks


def from_trace(rows: Sequence[TraceRow], *, block_size: int, rng: np.random.Generator) -> list[Arrival]:
    """One arrival per row; times rounded to ticks are spread over them, hashed blocks cut to `block_size` tokens."""
    spread, _ = spread_ticks(list(rows), rng)
    return [
        Arrival(
            at_s=row.time_s,
            num_prompt_tokens=row.input_len,
            num_output_tokens=row.output_len,
            block_hashes=block_hashes(row.hash_ids, row.input_len, block_size),
        )
        for row in spread
    ]


def block_hashes(hash_ids: Sequence[int], num_tokens: int, block_size: int) -> tuple[int, ...]:
    """Names of the prompt's full blocks of `block_size` tokens, given those of its blocks of 512.

    A block is named by the 512 that its last token lies in, and by where: a trace's ids stand for all tokens up to
    their block's end, so equal names mean equal prefixes.
    """
    if not hash_ids:
        return ()
    lasts = range(block_size - 1, num_tokens, block_size)
    return tuple(hash_ids[last // HASHED_TOKENS] * HASHED_TOKENS + last % HASHED_TOKENS for last in lasts)


def synthetic(
    shape: Shape,
    *,
    rate: float,
    num_requests: int,
    rng: np.random.Generator,
    gap_cv: float = 1.0,
    num_shared_tokens: int = 0,
    num_groups: int = 1,
    block_size: int = 16,
) -> list[Arrival]:
    """Arrivals with gamma gaps: `gap_cv` 1 is Poisson, more is burstier, 0 is a clock's beat.

    Args:
        rate: Mean requests/s; the last request is due at num_requests / rate exactly.
        num_shared_tokens: Every prompt begins with so many tokens that its group shares, and is longer by them. Only
            their blocks are named: a request that is played twice finds no more of itself.
        num_groups: Of prompts that share a beginning; a request's group is drawn evenly.
        block_size: The engine's; read only where tokens are shared.
    """
    _check("rate", rate, above=0.0)
    _check("num_requests", num_requests, above=0)
    _check("num_groups", num_groups, above=0)
    if not 0 <= gap_cv < float("inf"):
        raise ConfigError(f"gap_cv {gap_cv:g} must be 0 or more; 1 is Poisson")
    prompts, outputs = shape.draw(num_requests, rng)
    times_s = _gamma_times_s(rate, gap_cv, num_requests, rng)
    totals = (prompts + num_shared_tokens).tolist()
    hashes: list[tuple[int, ...]] = [()] * num_requests
    if num_shared_tokens:
        size = num_shared_tokens // block_size
        names = [tuple(range(group * size, (group + 1) * size)) for group in range(num_groups)]
        hashes = [names[group] for group in rng.integers(0, num_groups, num_requests)]
    return [
        Arrival(at_s=at_s, num_prompt_tokens=total, num_output_tokens=output, block_hashes=shared)
        for at_s, total, output, shared in zip(times_s, totals, outputs.tolist(), hashes, strict=True)
    ]


def _gamma_times_s(rate: float, gap_cv: float, count: int, rng: np.random.Generator) -> list[float]:
    if gap_cv == 0:
        gaps_s = np.full(count, 1 / rate)
    else:
        shape = gap_cv**-2  # a gamma distribution's CV is shape ** -0.5
        gaps_s = rng.gamma(shape, 1 / (rate * shape), count)
    times_s = np.cumsum(gaps_s)
    scaled: list[float] = (times_s * (count / rate / times_s[-1])).tolist()
    return scaled


def rescale(arrivals: Sequence[Arrival], rate: float) -> list[Arrival]:
    """The same requests, gaps stretched evenly so that their mean rate is `rate`; bursts stay bursts."""
    _check("rate", rate, above=0.0)
    factor = mean_rate(arrivals) / rate
    return [replace(arrival, at_s=arrival.at_s * factor) for arrival in arrivals]


def mean_rate(arrivals: Sequence[Arrival]) -> float:
    """Requests/s: n - 1 gaps over their sum."""
    span_s = arrivals[-1].at_s - arrivals[0].at_s if arrivals else 0.0
    if span_s <= 0:
        raise ConfigError(f"{len(arrivals)} requests at one instant have no rate; give at least two at different times")
    return (len(arrivals) - 1) / span_s


def clip(arrivals: Sequence[Arrival], max_model_len: int, *, block_size: int) -> tuple[list[Arrival], int]:
    """Arrivals cut to the context, and how many were: outputs to half of it at most, prompts to what is left."""
    fitted = [_clipped(arrival, max_model_len, block_size) for arrival in arrivals]
    return fitted, sum(before is not after for before, after in zip(arrivals, fitted, strict=True))


def _clipped(arrival: Arrival, max_model_len: int, block_size: int) -> Arrival:
    if arrival.num_prompt_tokens + arrival.num_output_tokens <= max_model_len:
        return arrival
    num_output_tokens = min(arrival.num_output_tokens, max(1, max_model_len // 2))
    num_prompt_tokens = min(arrival.num_prompt_tokens, max_model_len - num_output_tokens)
    return replace(
        arrival,
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=num_output_tokens,
        block_hashes=arrival.block_hashes[: num_prompt_tokens // block_size],
    )


def _check(name: str, value: float, *, above: float) -> None:
    if not above < value < float("inf"):
        raise ConfigError(f"{name} {value:g} must be above {above:g}")
