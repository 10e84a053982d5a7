"""The highest rate that passes, and the closed forms that say where to look for it."""

import pytest

from cluster.contracts.latency import PromptChunk
from cluster.planner.search.goodput import (
    highest_rate,
    prompt_s,
    prompt_steps,
    saturated_decode_batch,
    saturated_decode_rate,
    saturated_mixed_rate,
    saturated_prefill_rate,
)
from tests.unit.planner.toy_costs import ToyLatency


@pytest.mark.parametrize("guess", [0.01, 1.0, 7.0, 7.5, 900.0])
def test_the_highest_rate_is_found_from_any_guess(guess: float) -> None:
    found = highest_rate(lambda rate: 1.0 if rate <= 7.3 else 0.0, target=0.9, guess=guess, tolerance=0.01)
    assert 7.3 * 0.99 <= found <= 7.3


def test_the_highest_rate_always_passed_itself() -> None:
    passed: list[float] = []

    def attainment(rate: float) -> float:
        share = 1.0 if rate < 3 or 4 < rate < 5 else 0.5  # noise: it rises again
        passed.extend([rate] if share >= 0.9 else [])
        return share

    assert highest_rate(attainment, target=0.9, guess=2.0) in passed


def test_a_rate_that_never_passes_is_0() -> None:
    assert highest_rate(lambda rate: 0.0, target=0.9, guess=10.0) == 0.0


def test_no_rate_above_the_ceiling_is_tried() -> None:
    tried: list[float] = []

    def attainment(rate: float) -> float:
        tried.append(rate)
        return 1.0

    assert highest_rate(attainment, target=0.9, guess=5.0, ceiling=8.0) == 8.0
    assert max(tried) == 8.0


def test_a_rate_known_to_pass_is_not_tried_again() -> None:
    tried: list[float] = []

    def attainment(rate: float) -> float:
        tried.append(rate)
        return 0.0

    assert highest_rate(attainment, target=0.9, guess=12.0, low=10.0, tolerance=0.05) == 10.0
    assert min(tried) > 10.0


def test_steps_of_a_saturated_worker_are_full_and_keep_the_order() -> None:
    steps = list(prompt_steps([30, 50, 40], 50))
    assert steps == [
        [PromptChunk(30, 0), PromptChunk(20, 0)],
        [PromptChunk(30, 20), PromptChunk(20, 0)],
        [PromptChunk(20, 20)],
    ]


def test_an_idle_pipeline_begins_the_next_chunk_before_the_last_one_ends() -> None:
    assert prompt_s(ToyLatency(), 100, 50) == pytest.approx(0.1)
    assert prompt_s(ToyLatency(pipeline_stages=2), 100, 50) == pytest.approx(0.05 / 2 + 0.05)


def test_bounds_are_what_saturated_steps_come_to() -> None:
    latency = ToyLatency()  # 1 ms a prompt token, 2 ms a decode
    assert saturated_prefill_rate(latency, [100] * 7, 250) == pytest.approx(10.0)
    assert saturated_decode_batch(latency, mean_context=100, tpot_s=0.0201, max_batch=64) == 10
    rate = saturated_decode_rate(latency, mean_context=100, mean_output=11, tpot_s=0.0201, max_batch=64)
    assert rate == pytest.approx(10 / (0.020 * 10))  # ten at once, each for ten steps
    limited = saturated_decode_rate(latency, mean_context=100, mean_output=11, tpot_s=0.0201, max_batch=4)
    assert limited == pytest.approx(4 / (0.008 * 10))
    assert saturated_decode_rate(latency, mean_context=100, mean_output=11, tpot_s=0.001, max_batch=64) == 0.0


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_worker_that_does_both_pays_for_both(is_chunked: bool) -> None:
    rate = saturated_mixed_rate(
        ToyLatency(),
        mean_prompt=100,
        mean_context=100,
        mean_output=10,
        tpot_s=1.0,
        max_batch=64,
        budget=4096,
        is_chunked=is_chunked,
    )
    assert rate == pytest.approx(1 / (0.1 + 10 * 0.002), rel=0.02)  # 100 ms of prompt, 2 ms of each token
