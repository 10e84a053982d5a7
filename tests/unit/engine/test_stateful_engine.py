"""The engine with a model that keeps a state of each sequence, and checks it at every step."""

import random
from collections.abc import Iterator

import pytest

from tests.unit.engine.driver import OPEN, Driver, make_spec
from tests.unit.engine.stateful_fake import StatefulFakeRunner
from tests.unit.engine.test_engine import expected
from workers.engine.stateful_blocks import StatefulBlocks
from workers.spec import Role

PROMPT = list(range(10, 33))  # 23 tokens: five blocks of 4 and three more; states are kept every 8


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def mixed(**engine: object) -> Driver:
    return Driver([make_spec(Role.MIXED, **engine)], StatefulFakeRunner)


def pair(prefill: dict[str, object] | None = None, decode: dict[str, object] | None = None) -> Driver:
    specs = [make_spec(Role.PREFILL, **(prefill or {})), make_spec(Role.DECODE, **(decode or {}))]
    return Driver(specs, StatefulFakeRunner)


def blocks_of(driver: Driver, index: int = 0) -> StatefulBlocks:
    blocks = driver.engines[index].blocks
    assert isinstance(blocks, StatefulBlocks)
    return blocks


def finish(driver: Driver) -> None:
    driver.run()
    for index in range(len(driver.engines)):
        slots = blocks_of(driver, index).slots
        assert slots.num_free == slots.num_states, "a slot is held"
        load = driver.engines[index].load
        assert load.num_free_states == load.num_states == slots.num_states


@pytest.mark.parametrize("length", [1, 4, 7, 8, 9, 16, 23, 61])
def test_an_answer_is_the_models_here_and_handed_over(length: int) -> None:
    prompt = list(range(1, length + 1))
    for driver in (mixed(), mixed(prefix_cache=False), pair()):
        driver.submit("r", prompt)
        finish(driver)
        assert driver.answer("r") == expected(prompt)


def test_choices_copy_the_prompts_state_and_differ_by_sampling() -> None:
    for driver in (mixed(), pair()):
        driver.submit("r", PROMPT, choices=3, temperature=1.0)
        finish(driver)
        answers = [driver.answer("r", choice) for choice in range(3)]
        assert answers == [expected(PROMPT, choice=choice, temperature=1.0) for choice in range(3)]


def test_a_choice_without_a_slot_reads_the_prompt_again() -> None:
    driver = Driver([make_spec(Role.MIXED, max_sequences=2)], lambda spec: StatefulFakeRunner(spec, num_extra=0))
    driver.submit("r", PROMPT, choices=3, temperature=1.0)
    finish(driver)
    for choice in range(3):
        assert driver.answer("r", choice) == expected(PROMPT, choice=choice, temperature=1.0)


def test_a_hit_reaches_to_the_last_state_that_is_kept() -> None:
    driver = mixed()
    driver.submit("r0", PROMPT)
    finish(driver)
    assert driver.engines[0].stats.num_prefix_hit_tokens == 0
    driver.submit("r1", PROMPT)  # 20 tokens are in known blocks, the last state is after 16
    driver.submit("r2", [*PROMPT[:14], 90, 91, 92])  # 12 tokens, and 8
    finish(driver)
    assert driver.engines[0].stats.num_prefix_hit_tokens == 16 + 8
    assert driver.answer("r1") == expected(PROMPT)
    assert driver.answer("r2") == expected([*PROMPT[:14], 90, 91, 92])


def test_an_answers_states_serve_the_next_turn() -> None:
    driver = mixed()
    driver.submit("r0", PROMPT)
    finish(driver)
    turn = [*PROMPT, *driver.answer("r0"), 7, 7]  # 33 tokens, of which 30 were computed: states after 8, 16, 24
    driver.submit("r1", turn)
    finish(driver)
    assert driver.engines[0].stats.num_prefix_hit_tokens == 24
    assert driver.answer("r1") == expected(turn)


def test_no_hit_is_counted_without_its_state() -> None:
    driver = Driver([make_spec(Role.MIXED, max_sequences=1)], lambda spec: StatefulFakeRunner(spec, num_extra=1))
    driver.submit("r0", PROMPT)
    finish(driver)
    assert blocks_of(driver).slots.num_cached == 1  # of three states, after 8, 16 and 24 tokens, the last
    driver.submit("r1", PROMPT)
    finish(driver)
    assert driver.engines[0].stats.num_prefix_hit_tokens == 0
    assert driver.answer("r1") == expected(PROMPT)


def test_routers_are_told_of_the_blocks_that_a_hit_may_reach() -> None:
    driver = mixed()
    told: list[int] = []
    emit = driver.engines[0]._emit
    driver.engines[0]._emit = lambda report: (told.extend(report.added_hashes), emit(report))[1]  # type: ignore[assignment]
    driver.submit("r0", PROMPT, max_tokens=1)
    finish(driver)
    blocks = blocks_of(driver)
    assert len(told) == 4  # of five full blocks: up to the state after 16 tokens
    assert all(blocks.is_known(block_hash) for block_hash in told)


def test_sequences_that_are_preempted_are_read_again() -> None:
    for cache in (True, False):
        driver = mixed(memory_bytes=2048, max_sequences=8, prefix_cache=cache)
        prompts = {f"r{index}": [index + 1] * 14 for index in range(6)}
        for request_id, prompt in prompts.items():
            driver.submit(request_id, prompt, max_tokens=20)
        finish(driver)
        assert driver.engines[0].stats.num_preemptions > 0
        for request_id, prompt in prompts.items():
            assert driver.answer(request_id) == expected(prompt, 20)


def test_an_abort_frees_blocks_and_slot_at_any_moment() -> None:
    for when in range(12):
        for driver in (mixed(), pair()):
            driver.submit("r", PROMPT, choices=2)
            for _ in range(when):
                driver.step()
            driver.abort("r")
            finish(driver)


def test_a_prefix_cached_on_either_side_changes_no_token() -> None:
    driver = pair()
    for turn, prompt in enumerate([PROMPT, PROMPT, [*PROMPT[:9], 77, 78, 79], PROMPT[:8], [*PROMPT, 5, 6], PROMPT]):
        driver.submit(f"r{turn}", prompt)
        finish(driver)
        assert driver.answer(f"r{turn}") == expected(prompt)
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0
    assert blocks_of(driver, 1).num_cached_blocks > 0


@pytest.mark.parametrize("seed", range(6))
def test_any_mix_of_requests_gives_the_models_answers(seed: int) -> None:
    rng = random.Random(seed)
    tight: dict[str, object] = {"memory_bytes": 4096, "max_sequences": rng.choice([2, 4, 8])}
    driver = mixed(**tight) if seed % 2 else pair(tight, tight)
    prompts: dict[str, tuple[list[int], int, int]] = {}
    stems = [[rng.randrange(1, 500) for _ in range(30)] for _ in range(3)]
    for index in range(24):
        prompt = [*rng.choice(stems)[: rng.randint(1, 30)], *(rng.randrange(1, 500) for _ in range(rng.randint(0, 6)))]
        choices, length = rng.choice([1, 1, 2]), rng.randint(1, 12)
        prompts[f"r{index}"] = (prompt, choices, length)
        driver.submit(f"r{index}", prompt, choices=choices, max_tokens=length)
        for _ in range(rng.randint(0, 4)):
            driver.step()
    finish(driver)
    for request_id, (prompt, choices, length) in prompts.items():
        for choice in range(choices):
            finals = driver.finals[request_id, choice]
            if finals[0].error.code == "preempted":  # a decode worker gave it back: the ingress would try again
                continue
            assert driver.answer(request_id, choice) == expected(prompt, length, choice)
