"""What rounds of drafts come to where a draft model agrees with answers, place by place."""

import random

import pytest

from cluster.profiling.acceptance import MIN_ROUNDS, chances_of


def test_rounds_end_at_the_first_wrong_token_and_go_on_after_it() -> None:
    answer = [True, True, False, True, False] * MIN_ROUNDS  # rounds: 2 of 3 right; then 1 of 2
    chances = chances_of([answer], depth=3)
    assert chances.by_place == (1.0, 0.5, 0.0)


def test_shares_are_those_of_places_whose_tokens_before_were_right() -> None:
    rng = random.Random(0)
    answers = [[rng.random() < 0.7 for _ in range(400)] for _ in range(20)]
    chances = chances_of(answers, depth=4)
    assert chances.by_place == pytest.approx((0.7,) * 4, abs=0.04)


def test_places_that_were_hardly_reached_are_as_the_one_before() -> None:
    answer = [False] * 40 + [True] * (MIN_ROUNDS - 2)
    chances = chances_of([answer], depth=8)
    assert len(chances.by_place) == 1
    assert chances.at(5) == chances.at(0) < 0.1


def test_a_draft_that_is_never_right_or_never_asked() -> None:
    assert chances_of([[False] * 30], depth=2).by_place == (0.0,)
    assert chances_of([[]], depth=2).by_place == (0.0,)
