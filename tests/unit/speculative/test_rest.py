"""Draft workers rest where steps are better off without them, and nowhere else."""

import random

import pytest

from workers.speculative.rest import LONGEST_STAY, SETTLING_STEPS, TRIAL_STEPS, Rest


class World:
    """Steps of 1 s in which `num_decodes` decode; guesses bring so many times the tokens, and make steps slower."""

    def __init__(self, num_decodes: int, brings: float, slower: float, noise: float = 0.03) -> None:
        self.rng = random.Random(5)
        self.num_decodes, self.brings, self.slower, self.noise = num_decodes, brings, slower, noise
        self.rest = Rest()
        self.rested: list[bool] = []

    def run(self, num_steps: int) -> float:
        """Tokens a second of these steps, beside no draft workers."""
        tokens, took_s = 0.0, 0.0
        for _ in range(num_steps):
            self.rest.begin(self.num_decodes)
            self.rested.append(self.rest.is_resting)
            brings, slower = (1.0, 1.0) if self.rest.is_resting else (self.brings, self.slower)
            step_s = slower * self.rng.gauss(1, self.noise)
            num_tokens = round(self.num_decodes * brings + self.rng.random() - 0.5)
            tokens, took_s = tokens + num_tokens, took_s + step_s
            self.rest.stepped(num_tokens, step_s, 1.0)
        return tokens / self.num_decodes / took_s


@pytest.mark.parametrize("slower", [1.02, 1.1, 1.3])
def test_where_guesses_bring_nothing_draft_workers_rest(slower: float) -> None:
    world = World(16, 1.0, slower)
    world.run(200)
    assert world.run(1000) > 0.985
    assert sum(world.rested[-1000:]) > 900


def test_where_guesses_gain_they_go_on() -> None:
    world = World(4, 1.4, 1.2)
    world.run(200)
    assert world.run(1000) > 1.4 / 1.2 * 0.97


def test_where_they_gain_clearly_rest_is_not_even_tried() -> None:
    world = World(1, 2.5, 1.3)
    world.run(500)
    assert not any(world.rested)


def test_they_come_back_when_guesses_gain_again() -> None:
    world = World(16, 1.0, 1.15)
    world.run(600)
    assert world.rested[-1]
    world.brings = 1.6
    world.run((LONGEST_STAY + 4) * TRIAL_STEPS)
    assert not world.rested[-1]


def test_each_load_has_a_way_of_its_own_and_a_new_one_begins_as_the_lower_one_is() -> None:
    world = World(8, 1.0, 1.2)
    world.run(300)
    rest = world.rest
    assert [rest.rests_at(number) for number in (1, 8, 16)] == [False, True, True]
    for num_decodes, is_resting in ((16, True), (1, False), (0, False), (16, True), (0, True)):
        rest.begin(num_decodes)
        assert rest.is_resting is is_resting


def test_steps_right_after_a_change_are_not_counted() -> None:
    """Texts are read first, or work that was begun comes to its end."""
    rest = Rest()
    rest.begin(4)
    for _ in range(TRIAL_STEPS):
        rest.stepped(4, 1.0, 1.0)
    rest.begin(4)
    assert rest.is_resting
    for number in range(SETTLING_STEPS + TRIAL_STEPS):
        rest.begin(4)
        rest.stepped(4, 100.0 if number < SETTLING_STEPS else 0.5, 1.0)
    rest.begin(4)
    assert rest.is_resting  # it was better
