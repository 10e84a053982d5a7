"""From the steps that workers noted to the points that are fitted: equal steps of several rounds become one median.

Invariant: a point is a median of steps that computed the same, taken from the calmer half of them: the rounds in which
the worker waited least for its core. Pure.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

BACK_TO_BACK_S = 1e-3  # the engine goes from one step to the next in less, or in a quarter of the step


class NotedStep(NamedTuple):
    """As `workers.profiled` prints it; times are of the machine's monotonic clock."""

    began_s: float
    ended_s: float
    prompts: Sequence[Sequence[int]]  # [num_tokens, num_context] of each chunk
    num_decodes: int
    num_context: int  # of the decodes, summed


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of one scenario."""

    scenario: str
    steps: tuple[NotedStep, ...]
    waited: float  # share of the time in steps that the engine's thread was ready and had no core


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """What a step of this make-up takes."""

    prompts: tuple[tuple[int, int], ...]  # (num_tokens, num_context) of each chunk
    num_decodes: int
    num_context: int
    step_s: float
    num_samples: int

    @property
    def kind(self) -> str:
        if not self.prompts:
            return "decode"
        return "mixed" if self.num_decodes else "prefill"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPoint:
    """From the prompt's last step to the first step that could use its KV, nothing pushed before."""

    transport: str
    num_bytes: int
    transfer_s: float
    num_samples: int


def costs_s(steps: Sequence[NotedStep]) -> list[float]:
    """Of each step: until the next one begins, where that follows at once; reporting its tokens is part of it."""
    costs = []
    for i, step in enumerate(steps):
        took_s = step.ended_s - step.began_s
        gap_s = steps[i + 1].began_s - step.ended_s if i + 1 < len(steps) else float("inf")
        costs.append(took_s + gap_s if gap_s <= max(BACK_TO_BACK_S, took_s / 4) else took_s)
    return costs


def step_points(rounds: Sequence[Round]) -> list[StepPoint]:
    """One point per make-up of prompts, and for decodes per scenario and batch, at their mean context.

    Of several rounds, what came about only once is left out: how prompts fell into steps there was chance.
    """
    samples: dict[tuple[tuple[tuple[int, int], ...], int, object], list[_Sample]] = defaultdict(list)
    for one in rounds:
        for step, cost_s in zip(one.steps, costs_s(one.steps), strict=True):
            prompts = tuple(sorted((num_tokens, num_context) for num_tokens, num_context in step.prompts))
            alike = step.num_context.bit_length() if prompts else one.scenario
            samples[prompts, step.num_decodes, alike].append(_Sample(step.num_context, cost_s, one.waited))
    is_repeated = max(Counter(one.scenario for one in rounds).values(), default=0) > 1
    points = [
        _point(prompts, num_decodes, found)
        for (prompts, num_decodes, _), found in samples.items()
        if len(found) > 1 or not is_repeated
    ]
    return sorted(points, key=lambda point: (point.kind, point.prompts, point.num_decodes, point.num_context))


OUTLIER = 3.0  # times the median: a step that long met something else


def mean(values: Sequence[float]) -> float:
    """Without outliers."""
    limit = OUTLIER * statistics.median(values)
    return statistics.fmean(value for value in values if value <= limit)


class _Sample(NamedTuple):
    num_context: int
    cost_s: float
    waited: float  # as of its round


def _point(prompts: tuple[tuple[int, int], ...], num_decodes: int, found: Sequence[_Sample]) -> StepPoint:
    """The mean of the samples whose round was no more disturbed than the median sample's, without outliers.

    Not the median: what a core now and then gives to others is part of every answer's time per token.
    """
    middle = statistics.median_low(sample.waited for sample in found)
    undisturbed = [sample for sample in found if sample.waited <= middle]
    return StepPoint(
        prompts=prompts,
        num_decodes=num_decodes,
        num_context=round(statistics.fmean(sample.num_context for sample in undisturbed)),
        step_s=mean([sample.cost_s for sample in undisturbed]),
        num_samples=len(undisturbed),
    )


def transfer_points(samples: Mapping[tuple[str, int], Sequence[float]]) -> list[TransferPoint]:
    """Of seconds by (transport, bytes)."""
    return [
        TransferPoint(
            transport=transport,
            num_bytes=num_bytes,
            transfer_s=statistics.median(found_s),
            num_samples=len(found_s),
        )
        for (transport, num_bytes), found_s in sorted(samples.items())
    ]
