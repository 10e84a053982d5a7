"""The kernel draws what the sampler in torch draws."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.model.sampling import make_row, random_logits
from workers.model import sampler
from workers.model.cuda.sampling import choose

pytest.importorskip("triton", reason="triton is not installed (make kernels)")


def drawn(logits: torch.Tensor, rows: list[sampler.SampleRow]) -> tuple[list[int], list[int]]:
    """By the kernel, and by torch."""
    params = [row.params for row in rows]
    sampling = [(one.temperature, one.top_p, one.min_p, one.top_k) for one in params]
    found = choose(logits, sampling, [sampler._key(row) for row in rows])
    return found.tolist(), [one.token_id for one in sampler.sample(logits, rows)]


@settings(
    max_examples=40, deadline=None, derandomize=True
)  # where weights are equal to the last bit, either may be kept
@given(
    seed=st.integers(0, 10_000),
    vocab_size=st.sampled_from([5, 100, 700, 3000]),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 600]),
    top_p=st.sampled_from([1.0, 0.99, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.001, 0.3]),
)
def test_tokens_of_rows_of_every_kind(
    seed: int, vocab_size: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(3, vocab_size, seed) * spread / 3
    changes = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    rows = [make_row(seed=seed + i, output=[1] * i, **changes) for i in range(3)]
    found, wanted = drawn(logits, rows)
    assert found == wanted


def test_rows_of_one_batch_have_settings_of_their_own() -> None:
    rng = random.Random(3)
    rows = [
        make_row(
            seed=i,
            temperature=rng.choice([0.0, 0.7, 1.3]),
            top_k=rng.choice([0, 5, 40]),
            top_p=rng.choice([1.0, 0.8]),
            min_p=rng.choice([0.0, 0.05]),
        )
        for i in range(24)
    ]
    found, wanted = drawn(random_logits(24, 900), rows)
    assert found == wanted


def test_equals_stay_together_and_the_first_of_them_is_likeliest() -> None:
    logits = torch.zeros(4, 64)
    logits[:, 40:50] = 1.0
    rows = [make_row(temperature=0.0), *(make_row(seed=i, temperature=1.0, top_k=1) for i in range(3))]
    found, wanted = drawn(logits, rows)
    assert found == wanted
    assert found[0] == 40
    assert all(40 <= token < 50 for token in found[1:])


def test_what_is_forbidden_is_not_drawn() -> None:
    logits = random_logits(4, 300)
    logits[:, ::2] = -torch.inf
    rows = [
        make_row(seed=1, temperature=2.0),
        make_row(seed=2, temperature=2.0, top_k=200),
        make_row(seed=3, temperature=2.0, top_p=0.999),
        make_row(seed=4),
    ]
    found, wanted = drawn(logits, rows)
    assert found == wanted
    assert all(token % 2 for token in found)
