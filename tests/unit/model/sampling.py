"""Rows to sample, and what comes of them, for tests of the sampler."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.model.contract import SampleRow
from workers.model.sampler import sample
from workers.model.sampling_params import SamplingParams


def make_row(*, choice: int = 0, prompt: Sequence[int] = (), output: Sequence[int] = (), **changes: Any) -> SampleRow:
    params = SamplingParams(**{"max_tokens": 100, "temperature": 0.0} | changes)
    return SampleRow(chunk=0, choice=choice, params=params, prompt_token_ids=prompt, output_token_ids=output)


def random_logits(num_rows: int, vocab_size: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def tokens(logits: Tensor, rows: Sequence[SampleRow], eos: Sequence[int] = ()) -> list[int]:
    return [one.token_id for one in sample(logits, rows, eos)]


def logprobs(logits: Tensor, eos: Sequence[int] = (), **row: Any) -> list[float]:
    """All logprobs of one row, by token id."""
    one = sample(logits[None], [make_row(logprobs=len(logits), **row)], eos)[0]
    by_id = dict(one.top)
    return [by_id.get(token, -math.inf) for token in range(len(logits))]


def assert_close(found: Sequence[float], expected: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), torch.log_softmax(expected, -1), rtol=0, atol=2e-6)


def counts(logits: Tensor, num_draws: int, **changes: Any) -> Counter[int]:
    """What `num_draws` requests with different seeds draw from one row of logits."""
    rows = [make_row(seed=seed, **{"temperature": 1.0} | changes) for seed in range(num_draws)]
    return Counter(tokens(logits.expand(num_draws, -1), rows))
