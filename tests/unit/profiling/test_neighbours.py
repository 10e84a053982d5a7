"""What two workers of a machine cost each other, from the steps they noted."""

import pytest

from cluster.profiling.neighbours import Beside, StepKind, contention, receive_s
from cluster.profiling.points import NotedStep


def decodes(begin_s: float, count: int, took_s: float, batch: int = 8) -> list[NotedStep]:
    return [NotedStep(begin_s + i * took_s, begin_s + (i + 1) * took_s, [], batch, 100 * batch) for i in range(count)]


def prompts(begin_s: float, count: int, took_s: float) -> list[NotedStep]:
    return [NotedStep(begin_s + i * took_s, begin_s + (i + 1) * took_s, [[256, 0]], 0, 0) for i in range(count)]


def test_a_step_counts_as_beside_while_the_neighbour_computes() -> None:
    alone = decodes(0.0, 20, 0.010)
    beside = [*decodes(1.0, 10, 0.013), *decodes(1.2, 10, 0.010)]  # the neighbour has ended before the second ten
    neighbour = prompts(0.99, 1, 0.15)
    found = contention([Beside(kind=StepKind.DECODES, alone=alone, beside=beside, neighbour=neighbour)], 2)
    assert found.decodes == pytest.approx(0.3)
    assert (found.workers_per_machine, found.prompts) == (2, 0.0)


def test_steps_with_fewer_sequences_and_outliers_do_not_count() -> None:
    alone = [*decodes(0.0, 3, 0.002, batch=1), *decodes(0.1, 10, 0.010)]
    beside = [*decodes(1.0, 10, 0.012), *decodes(1.12, 1, 0.4)]
    pair = Beside(kind=StepKind.DECODES, alone=alone, beside=beside, neighbour=decodes(0.9, 100, 0.01))
    assert contention([pair], 2).decodes == pytest.approx(0.2)


def test_a_worker_that_is_faster_beside_another_is_noise() -> None:
    pair = Beside(
        kind=StepKind.PROMPTS,
        alone=prompts(0.0, 4, 0.05),
        beside=prompts(1.0, 4, 0.049),
        neighbour=decodes(0.9, 100, 0.01),
    )
    assert contention([pair], 2).prompts == 0.0


def test_what_a_prompt_that_comes_over_takes_is_what_is_left_beside_the_slowdown() -> None:
    # 10 ms a step; 12 while the prompt is read from 1.0 to 1.048; the step that takes it in is 5 ms longer.
    steps = [*decodes(0.5, 50, 0.010), *decodes(1.0, 4, 0.012), *decodes(1.048, 1, 0.015), *decodes(1.063, 50, 0.010)]
    read = prompts(1.0, 1, 0.048)
    assert receive_s(steps, read, 0.2) == pytest.approx(0.005, abs=1e-4)
    assert receive_s(steps, [], 0.2) == 0.0
