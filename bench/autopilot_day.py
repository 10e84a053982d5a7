"""A day's load for `bench.autopilot`: more by day than by night, long prompts in the morning, long answers later.

Lengths are pairs of the Azure conversation trace where it is at hand, those with long prompts and those with long
answers apart; else made up alike. A day is pressed into `DAY_S`: an hour is 20 s, and the autopilot looks as much
more often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.contracts.simulation import Arrival
from cluster.load.trace_file import read_trace

HOURS, HOUR_S = 24, 20.0
DAY_S = HOURS * HOUR_S
WORKER_RATE, SWING, NOISE = 0.75, 0.35, 0.08  # requests/s a worker, share of it by time of day, and by chance
MAX_TOKENS = 4000
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """(prompt, answer) pairs; `source` in words."""

    long_prompts: Pairs
    long_answers: Pairs
    source: str


def kinds(trace: Path | None) -> Kinds:
    if trace is None:
        rng = np.random.default_rng(0)
        prompts, answers = rng.integers(1200, 3500, 500), rng.integers(10, 120, 500)
        return Kinds(
            long_prompts=list(zip(prompts.tolist(), answers.tolist(), strict=True)),
            long_answers=[(int(p) // 6, int(a) * 4 + 200) for p, a in zip(prompts, answers, strict=True)],
            source="made-up lengths",
        )
    rows = [(row.input_len, row.output_len) for row in read_trace(trace) if row.input_len <= MAX_TOKENS]
    return Kinds(
        long_prompts=[row for row in rows if row[0] >= 1200 and row[1] <= 130],
        long_answers=[row for row in rows if row[0] <= 1000 and row[1] >= 300],
        source=f"lengths of {trace.name}",
    )


def answers_share(hour: float) -> float:
    """Of requests with long answers: few until the morning is over, most from the afternoon on."""
    return 0.05 + 0.9 / (1 + math.exp(-(hour - 13.0) / 1.5))


def rate(hour: float, noise: Sequence[float]) -> float:
    """Requests/s of each worker."""
    swing = SWING * math.sin((hour - 7.0) / HOURS * 2 * math.pi)
    return WORKER_RATE * (1 + swing) * (1 + NOISE * noise[int(hour) % HOURS])


def day(of: Kinds, num_workers: int, *, seed: int = 0, hours: int = HOURS) -> list[Arrival]:
    """Poisson at the hour's rate."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(HOURS).tolist()
    arrivals: list[Arrival] = []
    at_s = 0.0
    while (at_s := at_s + float(rng.exponential(1 / (num_workers * rate(at_s / HOUR_S, noise))))) < hours * HOUR_S:
        pairs = of.long_answers if rng.random() < answers_share(at_s / HOUR_S) else of.long_prompts
        prompt, answer = pairs[int(rng.integers(len(pairs)))]
        arrivals.append(Arrival(at_s=at_s, num_prompt_tokens=prompt, num_output_tokens=answer))
    return arrivals
