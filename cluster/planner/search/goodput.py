"""The highest rate at which an SLO holds: bisection over simulations, and closed forms that say where to look.

The closed forms are bounds from steady state: no worker does more work per second than its saturated steps do. They
order the candidates and cut off those that cannot win; no plan is reported on their word alone.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf

from cluster.contracts.latency import LatencyModel, PromptChunk

TOLERANCE = 0.04  # of a goodput, relative: below the spread that a few hundred requests leave
MAX_PROBES = 24
BOUND_SLACK = 1.1  # the closed forms take mean lengths: a worker may do a little better


def highest_rate(
    attainment: Callable[[float], float],
    *,
    target: float,
    guess: float,
    low: float = 0.0,
    ceiling: float = inf,
    tolerance: float = TOLERANCE,
) -> float:
    """The highest rate found that passes; 0 when none above `guess` / 1000 does.

    Brackets by steps that grow from `guess`, then bisects. `attainment` should fall with the rate; where noise makes
    it rise again, the answer is a rate that passed, next to one that did not.

    Args:
        attainment: Rate in requests/s -> share of requests that meet the SLO.
        target: The share that must.
        guess: Where to begin, > `low`; the nearer the fewer calls.
        low: A rate that is known to pass.
        ceiling: A rate above which none can last, whatever a trial of finite length says; asked for at most.
    """
    high, factor = inf, 1.25
    rate = min(guess, ceiling)
    for _ in range(MAX_PROBES):
        if attainment(rate) >= target:
            low = rate
        else:
            high = rate
        if low >= ceiling or high <= guess / 1000 or high - low <= tolerance * high < inf:
            break
        if high == inf:
            rate, factor = min(rate * factor, ceiling), factor * 1.5
        elif low == 0.0:
            rate, factor = rate / factor, factor * 1.5
        else:
            rate = (low + high) / 2
    return low


def prompt_steps(num_tokens: Sequence[int], budget: int) -> Iterator[list[PromptChunk]]:
    """The steps that read these prompts in order, `budget` tokens each, as a saturated worker does."""
    chunks: list[PromptChunk] = []
    left = budget
    for length in num_tokens:
        done = 0
        while done < length:
            size = min(length - done, left)
            chunks.append(PromptChunk(size, done))
            done, left = done + size, left - size
            if not left:
                yield chunks
                chunks, left = [], budget
    if chunks:
        yield chunks


def prompt_s(latency: LatencyModel, num_tokens: int, budget: int) -> float:
    """What an idle worker takes for one prompt, steps of other requests through the pipeline aside."""
    steps = [latency.step_s(chunks, 0, 0) for chunks in prompt_steps((num_tokens,), budget)]
    return sum(steps[:-1]) / latency.pipeline_stages + steps[-1] if steps else 0.0


def saturated_prefill_rate(latency: LatencyModel, num_tokens: Sequence[int], budget: int) -> float:
    """Prompts per second of a worker that never idles; no rate above it is sustained."""
    total_s = sum(latency.step_s(chunks, 0, 0) for chunks in prompt_steps(num_tokens, budget))
    return latency.pipeline_stages * len(num_tokens) / total_s


def saturated_decode_batch(latency: LatencyModel, *, mean_context: float, tpot_s: float, max_batch: int) -> int:
    """The most sequences that a step within `tpot_s` advances, each with `mean_context` tokens; 0 when not one."""
    return _largest(max_batch, lambda batch: latency.step_s((), batch, round(batch * mean_context)) <= tpot_s)


def saturated_decode_rate(
    latency: LatencyModel, *, mean_context: float, mean_output: float, tpot_s: float, max_batch: int
) -> float:
    """Answers per second at the largest batch within `tpot_s` and `max_batch`."""
    stages = latency.pipeline_stages
    batch = saturated_decode_batch(
        latency, mean_context=mean_context, tpot_s=tpot_s, max_batch=max(max_batch // stages, 1)
    )
    if not batch or mean_output <= 1:
        return 0.0 if not batch else inf
    return stages * batch / (latency.step_s((), batch, round(batch * mean_context)) * (mean_output - 1))


def saturated_mixed_rate(
    latency: LatencyModel,
    *,
    mean_prompt: float,
    mean_context: float,
    mean_output: float,
    tpot_s: float,
    max_batch: int,
    budget: int,
    is_chunked: bool,
) -> float:
    """Requests per second of a worker that reads and writes.

    In steady state a step of `batch` decodes comes with `batch * mean_prompt / mean_output` prompt tokens. Chunked,
    they share its time and budget; else the prompts' own steps come in between, and lengthen the gaps alike.
    """

    def step_s(batch: int) -> float:
        num_prompt_tokens = max(round(batch * mean_prompt / mean_output), 1)
        context = round(batch * mean_context)
        if is_chunked:
            return latency.step_s([PromptChunk(num_prompt_tokens, round(mean_prompt / 2))], batch, context)
        whole = [PromptChunk(round(mean_prompt), 0)] * max(round(budget / max(mean_prompt, 1)), 1)
        share = num_prompt_tokens / (len(whole) * max(round(mean_prompt), 1))
        return latency.step_s((), batch, context) + share * latency.step_s(whole, 0, 0)

    def holds(batch: int) -> bool:
        within = not is_chunked or batch * (1 + mean_prompt / mean_output) <= budget
        return within and step_s(batch) <= tpot_s

    batch = _largest(max_batch, holds)
    return latency.pipeline_stages * batch / (step_s(batch) * mean_output) if batch else 0.0


def _largest(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest n <= limit that holds, if all below do too; 0 when 1 does not."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
