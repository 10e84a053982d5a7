"""Of trees the likeliest tokens are verified, each after the one before it; they are learnt of by kind and depth."""

import random

import pytest

from workers.engine.draft import Draft
from workers.speculative.acceptance import Acceptance
from workers.speculative.goodput import Goodput, Outcome

# Two tokens after the root, and two after each of those: kinds 0 and 1 by rank.
TREE = Draft([1, 2, 3, 4, 5, 6], parents=[-1, -1, 0, 0, 1, 1], kinds=[0, 1, 0, 1, 0, 1])
CHANCES = {0: 0.6, 1: 0.3}


def right_of(draft: Draft, rng: random.Random) -> list[int]:
    """The way that is right: each token's children exclude one another."""
    way: list[int] = []
    at, luck = -1, rng.random()
    for place, parent in enumerate(draft.links):
        if parent == at:
            luck -= CHANCES[draft.kinds[place]]
            if luck < 0:
                way.append(place)
                at, luck = place, rng.random()
    return way


def test_what_is_learnt_orders_a_tree() -> None:
    acceptance, rng = Acceptance(4), random.Random(1)
    for _ in range(500):
        acceptance.learn_tree(TREE, right_of(TREE, rng))
    chances = acceptance.of(TREE)
    assert chances[:2] == pytest.approx([0.6, 0.3], abs=0.12)
    assert chances[2:] == pytest.approx([0.36, 0.18, 0.18, 0.09], abs=0.12)
    ordered = acceptance.likeliest_first(
        Draft([2, 1, 5, 6, 3, 4], parents=[-1, -1, 0, 0, 1, 1], kinds=[1, 0, 0, 1, 0, 1])
    )
    assert list(ordered.token_ids[:3]) == [1, 3, 2]
    assert acceptance.of(ordered) == sorted(acceptance.of(ordered), reverse=True)


def test_tokens_after_a_wrong_one_teach_nothing() -> None:
    acceptance = Acceptance(4)
    before = acceptance.of(TREE)
    acceptance.learn_tree(TREE, [])
    after = acceptance.of(TREE)
    assert after[0] < before[0]
    assert after[2] / after[0] == before[2] / before[0]


def test_a_path_of_several_kinds_is_judged_by_them() -> None:
    acceptance = Acceptance(4)
    for _ in range(50):
        acceptance.learn(0, 1, 1)
        acceptance.learn(1, 1, 0)
    assert acceptance.of(Draft([1], kind=0, kinds=[1])) < acceptance.of(Draft([1], kind=0))


@pytest.mark.parametrize("num_decodes", [1, 4])
@pytest.mark.parametrize("token_s", [0.02, 0.5])
def test_trees_are_verified_as_far_as_they_pay(num_decodes: int, token_s: float) -> None:
    rng, goodput = random.Random(1), Goodput(8)
    num_tokens, took_s = 0, 0.0
    for _ in range(1500):
        drafts = [goodput.acceptance.likeliest_first(TREE) for _ in range(num_decodes)]
        outcomes = []
        for draft, length in zip(drafts, goodput.choose(drafts, num_decodes), strict=True):
            chosen = draft.first(length)
            right = right_of(chosen, rng) if length else []
            num_tokens += 1 + len(right)
            outcomes.append(Outcome(draft.kind, length, len(right), chosen, right))
        num_drafts = sum(outcome.num_drafts for outcome in outcomes)
        step_s = (1.0 + token_s * num_drafts) * rng.gauss(1, 0.05)
        took_s += step_s
        goodput.learn(outcomes)
        goodput.took(num_decodes, num_drafts, step_s)
    faster = num_tokens / took_s / num_decodes
    assert faster > (1.6 if token_s == 0.02 and num_decodes == 1 else 0.97)
