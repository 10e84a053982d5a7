"""What workers of one machine cost each other, from the steps that two of them noted side by side. Pure.

Times are of the machine's monotonic clock, so that the two workers' steps can be laid beside each other.
"""

from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum, auto
from itertools import pairwise
from typing import NamedTuple

from bench.profiling.points import OUTLIER, Step, mean
from cluster.planner.overheads import Contention

SETTLING_S = 0.015  # after a prompt's step: the rest of its KV, and what taking it in costs


class Kind(Enum):
    """Of a step."""

    PROMPTS = auto()  # with decodes beside them, or without
    DECODES = auto()  # alone


class Beside(NamedTuple):
    """Steps of one kind, noted alone and while another worker computed one kind of steps."""

    mine: Kind
    theirs: Kind
    alone: Sequence[Step]
    beside: Sequence[Step]
    neighbour: Sequence[Step]  # the other worker's, of any kind


def contention(found: Sequence[Beside], workers_per_machine: int) -> Contention:
    """The shares by which steps were slower; 0 for kinds of which there is no step."""

    def share(mine: Kind, theirs: Kind) -> float:
        return slowdown([one for one in found if one.mine is mine and one.theirs is theirs])

    return Contention(
        workers_per_machine=workers_per_machine,
        prompt_beside_prompt=share(Kind.PROMPTS, Kind.PROMPTS),
        prompt_beside_decode=share(Kind.PROMPTS, Kind.DECODES),
        decode_beside_prompt=share(Kind.DECODES, Kind.PROMPTS),
        decode_beside_decode=share(Kind.DECODES, Kind.DECODES),
    )


def slowdown(found: Sequence[Beside]) -> float:
    """Of several rounds; 0 or more.

    A step counts as beside when the neighbour computed steps of `theirs` as it began.
    """
    alone_s = [took for one in found for took in _took_s(one.alone, one.mine)]
    beside_s = [took for one in found for took in _took_s(_beside(one.beside, one.neighbour, one.theirs), one.mine)]
    if not alone_s or not beside_s:
        return 0.0
    return max(mean(beside_s) / mean(alone_s) - 1, 0.0)


def _took_s(steps: Sequence[Step], kind: Kind) -> list[float]:
    """Of the steps with the most sequences or tokens of their kind: loads begin and end with smaller ones."""
    alike = [step for step in steps if kind_of(step) is kind]
    sizes = [step.num_decodes + sum(tokens for tokens, _ in step.prompts) for step in alike]
    return [step.ended_s - step.began_s for step, size in zip(alike, sizes, strict=True) if size == max(sizes)]


def kind_of(step: Step) -> Kind:
    return Kind.PROMPTS if step.prompts else Kind.DECODES


def _beside(steps: Sequence[Step], neighbour: Sequence[Step], kind: Kind) -> list[Step]:
    begins = [step.began_s for step in neighbour]
    found = []
    for step in steps:
        index = bisect_right(begins, step.began_s) - 1
        if index >= 0 and step.began_s < neighbour[index].ended_s and kind_of(neighbour[index]) is kind:
            found.append(step)
    return found


def receive_s(decodes: Sequence[Step], prompts: Sequence[Step], slower: float) -> float:
    """What each prompt that comes over takes of the decode worker's time, 0 or more.

    Args:
        decodes: Of the decode worker, one after the other without a pause, about the same sequences in each.
        prompts: Of the prefill worker, one prompt each, with pauses between.
        slower: Share by which decodes are slower while a prompt is computed on the machine.
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
