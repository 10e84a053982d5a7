"""Draft workers rest where steps are better off without them, and nowhere else."""

import random

import pytest

from workers.speculative.rest import LONGEST_STAY, MOST_SETTLING_STEPS, SETTLING_STEPS, TRIAL_STEPS, Rest


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
    for _ in range(SETTLING_STEPS + TRIAL_STEPS):
        rest.stepped(4, 1.0, 1.0)
    rest.begin(4)
    assert rest.is_resting
    for number in range(SETTLING_STEPS + TRIAL_STEPS):
        rest.begin(4)
        rest.stepped(4, 100.0 if number < SETTLING_STEPS else 0.5, 1.0)
    rest.begin(4)
    assert rest.is_resting  # it was better


@pytest.mark.parametrize(("brings", "slower", "is_better"), [(1.0, 1.15, False), (1.2, 1.1, True)])
@pytest.mark.parametrize("seed", [4, 11, 15])
def test_how_many_are_decoded_is_not_taken_for_what_guesses_bring(
    brings: float, slower: float, is_better: bool, seed: int
) -> None:
    """Of one load from 8 to 15, and for some steps each: the more, the more tokens a second."""
    world, rng = World(8, brings, slower), random.Random(seed)
    for _ in range(200):
        world.num_decodes = rng.randint(8, 15)
        world.run(15)
    num_resting = sum(world.rested)
    assert num_resting < 200 if is_better else num_resting > 2800


def tried(rest: Rest, num_decodes: int = 4) -> None:
    """A trial's steps."""
    for _ in range(SETTLING_STEPS + TRIAL_STEPS):
        rest.begin(num_decodes)
        rest.stepped(num_decodes, 1.0, 1.0)
    rest.begin(num_decodes)


def test_trials_come_to_an_end_where_loads_take_turns() -> None:
    """As where answers end and begin: of no load there are many steps in a row."""
    world = World(8, 1.0, 1.2)
    for turn in range(120):
        world.num_decodes = 8 if turn % 2 else 7
        world.run(TRIAL_STEPS - 2)
    assert world.rest.rests_at(7)
    assert world.rest.rests_at(8)


def test_nothing_is_learnt_while_no_draft_worker_is_there() -> None:
    rest = Rest()
    rest.is_served = False
    for _ in range(3):
        tried(rest)
    assert not rest.is_resting
    rest.is_served = True
    tried(rest)
    assert rest.is_resting


@pytest.mark.parametrize(
    ("num_read", "is_resting"), [(MOST_SETTLING_STEPS // 2, False), (2 * MOST_SETTLING_STEPS, True)]
)
def test_steps_while_texts_are_read_are_not_counted_but_for_so_long(num_read: int, is_resting: bool) -> None:
    """Guesses gain, once what was written at rest is read."""
    world = World(16, 1.0, 1.2)
    world.run(60)
    rest = world.rest
    while rest.is_resting:
        world.run(1)
    for number in range(MOST_SETTLING_STEPS + TRIAL_STEPS + 1):
        rest.is_reading = number < num_read
        world.brings, world.slower = (1.0, 1.2) if rest.is_reading else (1.6, 1.1)
        world.run(1)
    assert rest.is_resting is is_resting
