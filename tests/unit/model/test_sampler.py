"""The sampler against plain formulas, against transformers' processors, and against itself in other batches."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.unit.model.sampling import counts, make_row, random_logits, tokens
from workers.model.contract import SampleRow
from workers.model.sampler import NUCLEUS_WIDTHS, sample


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def assert_follows(found: Counter[int], probabilities: Tensor) -> None:
    """Chi-square at p = 1e-6; impossible tokens never."""
    num_draws = sum(found.values())
    expected = {token: num_draws * p for token, p in enumerate(probabilities.tolist()) if p > 0}
    assert set(found) <= set(expected)
    chi_square = sum((found[token] - mean) ** 2 / mean for token, mean in expected.items())
    spread = 2 / (9 * (len(expected) - 1))
    quantile = (len(expected) - 1) * (1 - spread + 4.75 * math.sqrt(spread)) ** 3  # Wilson and Hilferty 1931
    assert chi_square < quantile, f"{chi_square} {found} {expected}"


def test_temperature_0_takes_the_most_likely() -> None:
    logits = random_logits(5, 100)
    assert tokens(logits, [make_row()] * 5) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("num_rows", [1, 7])
def test_of_equals_temperature_0_takes_the_lowest_id(num_rows: int) -> None:
    logits = torch.zeros(num_rows, 5000)
    logits[:, [70, 71, 4000]] = 2.0
    assert tokens(logits, [make_row()] * num_rows) == [70] * num_rows


def test_the_logits_given_are_not_changed() -> None:
    logits = random_logits(3, 50)
    before = logits.clone()
    row = make_row(
        temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, logit_bias=((3, 5.0),), min_tokens=2, repetition_penalty=1.3,
        frequency_penalty=0.2, presence_penalty=0.1, prompt=[1], output=[2], logprobs=2,
    )  # fmt: skip
    sample(logits, [row] * 3, [4])
    assert torch.equal(logits, before)


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.zeros(0, 10), []) == []


# Logprobs.


def test_logprobs_are_taken_before_temperature_and_truncation() -> None:
    logits = random_logits(1, 20)[0]
    expected = torch.log_softmax(logits, -1)
    one = sample(logits[None], [make_row(temperature=0.3, top_k=1, seed=1, logprobs=4)])[0]
    assert one.token_id == int(logits.argmax())
    assert one.logprob == pytest.approx(float(expected.max()), abs=1e-6)
    values, ids = expected.topk(4)
    assert [token for token, _ in one.top] == ids.tolist()
    assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-6)


def test_each_row_gets_as_many_logprobs_as_it_asked_for() -> None:
    asked = [None, 0, 3, 20, 1]
    found = sample(random_logits(5, 15), [make_row(logprobs=num) for num in asked])
    assert found[0].logprob is None
    assert all(one.logprob is not None for one in found[1:])
    assert [len(one.top) for one in found] == [0, 0, 3, 15, 1]


def test_the_logprob_is_that_of_the_token_drawn() -> None:
    logits = random_logits(1, 30)
    expected = torch.log_softmax(logits[0], -1)
    for seed in range(10):
        one = sample(logits, [make_row(temperature=2.0, seed=seed, logprobs=0)])[0]
        assert one.logprob == pytest.approx(float(expected[one.token_id]), abs=1e-6)


def test_tokens_held_back_are_not_among_the_logprobs() -> None:
    one = sample(torch.zeros(1, 4), [make_row(logprobs=4, min_tokens=1)], [2])[0]
    assert [token for token, _ in one.top] == [0, 1, 3]


# Draws.

SMALL = torch.tensor([2.0, 1.5, 0.0, -1.0, 1.0, -8.0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_draws_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    assert_follows(counts(SMALL, 20_000, temperature=temperature), torch.softmax(SMALL / temperature, -1))


def test_draws_of_one_request_at_successive_positions_follow_the_softmax() -> None:
    rows = [make_row(temperature=1.0, seed=7, output=[0] * position) for position in range(6000)]
    assert_follows(Counter(tokens(SMALL.expand(6000, -1), rows)), torch.softmax(SMALL, -1))


def test_draws_of_successive_choices_follow_the_softmax() -> None:
    rows = [make_row(temperature=1.0, seed=7, choice=choice) for choice in range(6000)]
    assert_follows(Counter(tokens(SMALL.expand(6000, -1), rows)), torch.softmax(SMALL, -1))


def test_successive_draws_are_independent() -> None:
    logits = torch.zeros(8000, 2)
    drawn = tokens(
        logits, [make_row(temperature=1.0, seed=3, output=[0] * (i % 2), choice=i // 2) for i in range(8000)]
    )
    pairs = Counter(2 * a + b for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert_follows(pairs, torch.full((4,), 0.25))


def test_draws_from_a_large_even_vocabulary_are_even() -> None:
    found = tokens(torch.zeros(2000, 4096), [make_row(temperature=1.0, seed=seed) for seed in range(2000)])
    assert_follows(Counter(token * 20 // 4096 for token in found), torch.full((20,), 0.05))
    assert len(set(found)) > 1500


def test_an_unlikely_token_is_drawn_as_often_as_it_should() -> None:
    logits = torch.zeros(20_000, 3)
    logits[:, 1] = math.log(0.002)
    found = Counter(tokens(logits, [make_row(temperature=1.0, seed=seed) for seed in range(20_000)]))
    assert_follows(found, torch.softmax(logits[0], -1))
    assert 5 <= found[1] <= 40


WARPERS: dict[str, tuple[dict[str, Any], list[Callable[[Tensor, Tensor], Tensor]]]] = {
    "top_k": ({"top_k": 4}, [TopKLogitsWarper(4)]),
    "top_p": ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
    "min_p": ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
    "all": (
        {"temperature": 1.7, "top_k": 8, "top_p": 0.9, "min_p": 0.05},
        [TemperatureLogitsWarper(1.7), TopKLogitsWarper(8), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)],
    ),
}


@pytest.mark.parametrize("name", WARPERS)
def test_draws_follow_the_distribution_that_transformers_makes(name: str) -> None:
    logits = torch.tensor([2.0, 1.7, 1.4, 1.1, 0.8, 0.2, 0.0, -0.3, -1.0, -3.0])
    changes, warpers = WARPERS[name]
    scores = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())[0]
    assert_follows(counts(logits, 10_000, **changes), torch.softmax(scores, -1))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    vocab_size=st.sampled_from([5, 70, 1500]),
    temperature=st.floats(0.2, 5.0),
    top_k=st.sampled_from([0, 1, 3, 40, 5000]),
    top_p=st.sampled_from([1.0, 1e-6, 0.3, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_only_tokens_that_transformers_leaves_are_drawn(
    seed: int, vocab_size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(1, vocab_size, seed)[0]
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    scores = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())[0]
    found = counts(logits, 200, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert all(scores[token] > -torch.inf for token in found)


@pytest.mark.parametrize("width", [NUCLEUS_WIDTHS[0] + 10, NUCLEUS_WIDTHS[1] + 10])
def test_a_nucleus_wider_than_what_is_sorted_first_is_whole(width: int) -> None:
    logits = torch.full((3000,), -50.0)
    logits[torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:width]] = 0.0
    logits += torch.linspace(0, 0.1, 3000)  # no equals
    top = set(logits.topk(int(width * 0.9) + 20).indices.tolist())
    found = counts(logits, 3000, top_p=0.9)
    assert set(found) <= top
    assert len(found) > 0.6 * width


def test_equal_logits_stay_or_go_together() -> None:
    logits = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0])
    assert set(counts(logits, 500, top_k=2)) == {0, 1, 2, 3}
    assert set(counts(logits, 500, top_p=0.6)) == {0, 1, 2, 3}


def test_a_tiny_temperature_is_greedy() -> None:
    logits = random_logits(1, 500)[0]
    assert set(counts(logits, 50, temperature=1e-6)) == {int(logits.argmax())}


# What a result depends on.


def mixed_rows(num_rows: int) -> list[SampleRow]:
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20, "logprobs": 3},
        {"temperature": 1.3, "top_p": 0.9, "repetition_penalty": 1.2},
        {"temperature": 1.0, "min_p": 0.02, "frequency_penalty": 0.4, "logprobs": 0},
        {"logprobs": 5, "presence_penalty": 0.5, "min_tokens": 9},
    ]
    return [
        make_row(**kinds[index % 6], seed=index, choice=index % 3, prompt=[1, 2, index], output=[3, 4, 4][: index % 4])
        for index in range(num_rows)
    ]


@pytest.mark.parametrize("vocab_size", [97, 4099])
def test_a_row_gives_the_same_alone_and_in_any_batch(vocab_size: int) -> None:
    logits, rows = random_logits(18, vocab_size), mixed_rows(18)
    alone = [sample(logits[i : i + 1], rows[i : i + 1], [5])[0] for i in range(18)]
    assert sample(logits, rows, [5]) == alone
    order = [7, 3, 11, 0, 16]
    assert sample(logits[order], [rows[i] for i in order], [5]) == [alone[i] for i in order]


def test_a_draw_forgives_the_last_bits_of_the_logits() -> None:
    logits = random_logits(400, 2000)
    rows = [make_row(temperature=1.5, seed=seed) for seed in range(400)]
    noisy = logits + 2e-6 * torch.randn(400, 2000, generator=torch.Generator().manual_seed(1))
    assert tokens(logits, rows) == tokens(noisy, rows)


def test_the_same_seed_draws_the_same_and_others_differ() -> None:
    logits = torch.zeros(1, 1000)

    def draw(**changes: Any) -> int:
        return tokens(logits, [make_row(temperature=1.0, **{"seed": 5} | changes)])[0]

    assert draw() == draw()
    drawn = {draw(), draw(seed=6), draw(choice=1), draw(output=[1]), draw(seed=5 + (1 << 63)), draw(seed=(1 << 64) - 1)}
    assert len(drawn) == 6


def test_a_seed_draws_what_it_has_always_drawn() -> None:
    rows = [make_row(temperature=1.0, seed=seed, choice=seed % 2, output=[0] * seed) for seed in range(8)]
    assert tokens(torch.zeros(8, 1000), rows) == [680, 767, 511, 854, 362, 113, 818, 717]
