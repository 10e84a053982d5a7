"""What workers of one machine cost each other, from the steps that two of them noted side by side. Pure.

Times are of the machine's monotonic clock, so that the two workers' steps can be laid beside each other.
"""

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum, auto
from itertools import pairwise
from typing import NamedTuple

from cluster.contracts.overheads import Contention
from cluster.profiling.points import OUTLIER, NotedStep, mean

SETTLING_S = 0.015  # after a prompt's step: the rest of its KV, and what taking it in costs


class StepKind(Enum):
    """Of a step."""

    PROMPTS = auto()  # with decodes beside them, or without
    DECODES = auto()  # alone


class Beside(NamedTuple):
    """Steps of one kind, noted alone and, a moment later, while another worker computed."""

    kind: StepKind
    alone: Sequence[NotedStep]
    beside: Sequence[NotedStep]
    neighbour: Sequence[NotedStep]  # the other worker's


def contention(found: Sequence[Beside], workers_per_machine: int) -> Contention:
    """The shares by which steps were slower; 0 for a kind of which there is no step."""
    return Contention(
        workers_per_machine=workers_per_machine,
        prompts=_slowdown([one for one in found if one.kind is StepKind.PROMPTS]),
        decodes=_slowdown([one for one in found if one.kind is StepKind.DECODES]),
    )


def _slowdown(found: Sequence[Beside]) -> float:
    """The median of the rounds, 0 or more: a machine's own speed moves from one to the next."""
    shares = []
    for one in found:
        alone_s = _took_s(one.alone, one.kind)
        beside_s = _took_s(_beside(one.beside, one.neighbour), one.kind)
        if alone_s and beside_s:
            shares.append(mean(beside_s) / mean(alone_s) - 1)
    return max(statistics.median(shares), 0.0) if shares else 0.0


def _took_s(steps: Sequence[NotedStep], kind: StepKind) -> list[float]:
    """Of the steps with the most sequences or tokens of their kind: loads begin and end with smaller ones."""
    alike = [step for step in steps if kind_of(step) is kind]
    sizes = [step.num_decodes + sum(tokens for tokens, _ in step.prompts) for step in alike]
    return [step.ended_s - step.began_s for step, size in zip(alike, sizes, strict=True) if size == max(sizes)]


def kind_of(step: NotedStep) -> StepKind:
    return StepKind.PROMPTS if step.prompts else StepKind.DECODES


def _beside(steps: Sequence[NotedStep], neighbour: Sequence[NotedStep]) -> list[NotedStep]:
    """Those that began while the neighbour computed."""
    begins = [step.began_s for step in neighbour]
    found = []
    for step in steps:
        index = bisect_right(begins, step.began_s) - 1
        if index >= 0 and step.began_s < neighbour[index].ended_s:
            found.append(step)
    return found


def receive_s(decodes: Sequence[NotedStep], prompts: Sequence[NotedStep], slower: float) -> float:
    """What each prompt that comes over takes of the decode worker's time, 0 or more.

    Args:
        decodes: Of the decode worker, one after the other without a pause, about the same sequences in each.
        prompts: Of the prefill worker, one prompt each, with pauses between.
        slower: Share by which decodes are slower beside another worker.
    """
    begins = [step.began_s for step in decodes]
    periods_s = [later - begin for begin, later in pairwise(begins)]
    windows = [(step.began_s, step.ended_s) for step in prompts]
    near = [_near(begin, begin + period, windows) for begin, period in zip(begins, periods_s, strict=False)]
    quiet_s = [period for period, is_near in zip(periods_s, near, strict=True) if not is_near]
    if not quiet_s or not prompts:
        return 0.0
    alone_s = mean(quiet_s)
    extra_s = 0.0
    for begin, period, is_near in zip(begins, periods_s, near, strict=False):
        if is_near:
            is_beside = any(low <= begin < high for low, high in windows)
            extra_s += min(period, OUTLIER * alone_s) - alone_s * (1 + slower * is_beside)
    return max(extra_s / len(prompts), 0.0)


def _near(begin: float, end: float, windows: Sequence[tuple[float, float]]) -> bool:
    return any(begin < high + SETTLING_S and end > low for low, high in windows)
