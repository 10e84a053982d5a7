"""Bias and penalties against plain formulas and transformers' processors, seen through the logprobs."""

from typing import Any

import pytest
import torch
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from tests.unit.model.sampling import assert_close, logprobs, make_row, random_logits
from workers.model.sampler import sample


def test_bias_is_added() -> None:
    logits = random_logits(1, 20)[0]
    expected = logits.clone()
    expected[3] += 5
    expected[7] -= 2.5
    assert_close(logprobs(logits, logit_bias=((3, 5.0), (7, -2.5))), expected)


def test_bias_of_a_token_beyond_the_vocabulary_changes_nothing() -> None:
    logits = random_logits(1, 20)[0]
    assert_close(logprobs(logits, logit_bias=((20, 5.0), (99999, 5.0))), logits)


def test_repetition_penalty_is_that_of_transformers_over_prompt_and_output() -> None:
    logits = random_logits(1, 20)[0]
    prompt, output = [1, 2, 2, 3], [3, 9, 9]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[*prompt, *output]]), logits[None].clone())[0]
    assert_close(logprobs(logits, repetition_penalty=1.7, prompt=prompt, output=output), expected)


def test_frequency_and_presence_penalties_count_output_tokens_alone() -> None:
    logits = random_logits(1, 20)[0]
    expected = logits.clone()
    for token, count in {4: 3, 5: 1}.items():
        expected[token] -= 0.5 * count + 0.3
    row: dict[str, Any] = {"frequency_penalty": 0.5, "presence_penalty": 0.3}
    assert_close(logprobs(logits, **row, prompt=[6, 6], output=[4, 5, 4, 4]), expected)
    assert_close(logprobs(logits, **row, prompt=[6, 6]), logits)


def test_bias_comes_before_repetition_and_that_before_frequency() -> None:
    logits = torch.tensor([1.0, -1.0, 0.0, 0.0])
    row: dict[str, Any] = {"logit_bias": ((0, 1.0), (1, 3.0)), "repetition_penalty": 2.0, "frequency_penalty": 0.25}
    expected = torch.tensor([(1.0 + 1.0) / 2 - 0.25, (-1.0 + 3.0) / 2 - 0.5, 0.0, 0.0])
    assert_close(logprobs(logits, **row, output=[0, 1, 1]), expected)


@pytest.mark.parametrize("num_outputs", [0, 2, 3, 4])
def test_min_tokens_holds_eos_back_like_transformers(num_outputs: int) -> None:
    logits = random_logits(1, 20)[0]
    output = [9] * num_outputs
    processor = MinNewTokensLengthLogitsProcessor(2, 3, [5, 6], device="cpu")
    expected = processor(torch.tensor([[1, 2, *output]]), logits[None].clone())[0]
    assert_close(logprobs(logits, eos=[5, 6], min_tokens=3, prompt=[1, 2], output=output), expected)


def test_min_tokens_holds_stop_tokens_back_and_an_ignored_eos_not() -> None:
    logits = random_logits(1, 20)[0]
    expected = logits.clone()
    expected[[7, 8]] = -torch.inf
    stops = frozenset({7, 8, 500})
    assert_close(logprobs(logits, eos=[5], min_tokens=3, stop_token_ids=stops, ignore_eos=True), expected)


def test_only_rows_that_ask_are_adjusted() -> None:
    logits = random_logits(3, 30)
    plain = [make_row(logprobs=30)] * 3
    rows = [plain[0], make_row(logprobs=30, logit_bias=((1, 9.0),), presence_penalty=1.0, output=[2]), plain[2]]
    before, after = sample(logits, plain), sample(logits, rows)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
