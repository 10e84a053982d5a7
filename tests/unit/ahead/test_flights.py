"""What is special to steps that are launched while one is in flight."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from baton.v1 import inference_pb2
from tests.unit.engine.driver import OPEN, Driver, make_spec
from tests.unit.engine.late import LateRunner
from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence as Seq
from workers.engine.wire import sampling_params
from workers.model.fake import FakeRunner
from workers.spec import Role
from workers.speculative.goodput import Goodput
from workers.speculative.speculation import ASK_AHEAD_EVERY, QUIET_STEPS, DraftedSpeculation

PROMPT = list(range(10, 33))


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def expected(prompt: list[int], n: int, **sampling: Any) -> list[int]:
    settings = {"max_tokens": n, "seed": 1, "temperature": 0.0, "ignore_eos": True} | sampling
    return FakeRunner.expected_output(prompt, sampling_params(inference_pb2.SamplingParams(**settings)), 0, n)


def mixed(**engine: object) -> Driver:
    return Driver([make_spec(Role.MIXED, **engine)])


def runner_of(driver: Driver) -> LateRunner:
    runner: Any = driver.engines[-1].runner
    assert isinstance(runner, LateRunner)
    return runner


def test_every_decode_but_the_first_is_launched_without_its_token() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=20)
    driver.run()
    assert driver.answer("r") == expected(PROMPT, 20)
    assert runner_of(driver).num_followed == 19
    assert driver.engines[0].stats.num_decode_steps == 19, "none was computed in vain: the length is known"


def test_blocks_of_an_answer_that_ended_are_nobodys_while_a_step_writes_to_them() -> None:
    driver = mixed()
    stop = expected(PROMPT, 6)
    driver.submit("r", PROMPT, max_tokens=20, stop_token_ids=[stop[-1]])
    engine = driver.engines[0]
    while not driver.finals["r", 0]:
        driver.step()
    assert driver.answer("r") == stop
    assert engine.blocks.num_referenced_blocks > 0
    assert not engine.is_idle
    driver.step()
    assert engine.blocks.num_referenced_blocks == 0
    assert driver.is_clean


def test_an_abort_in_flight_frees_its_blocks_when_the_step_is_done() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=20)
    for _ in range(4):
        driver.step()
    num_told = len(driver.tokens["r", 0])
    driver.abort("r")
    driver.run()
    assert len(driver.tokens["r", 0]) == num_told, "a token was told after the abort"
    assert driver.is_clean


@pytest.mark.parametrize("seed", range(16))
def test_answers_that_stop_at_any_token_and_aborts_under_few_blocks(seed: int) -> None:
    rng = random.Random(seed)
    small: dict[str, object] = {"memory_bytes": rng.choice([2048, 4096]), "max_sequences": rng.choice([3, 16])}
    specs = [make_spec(Role.MIXED, **small)]
    if seed % 2:
        specs = [make_spec(Role.PREFILL, **small), make_spec(Role.DECODE, **small)]
    driver = Driver(specs)
    wanted: dict[str, list[int]] = {}
    for index in range(40):
        prompt = [rng.randrange(1, 200) for _ in range(rng.randrange(1, 14))]
        whole = expected(prompt, 12, temperature=1.0)
        stop = rng.choice(whole)
        driver.submit(f"r{index}", prompt, max_tokens=12, temperature=1.0, stop_token_ids=[stop])
        wanted[f"r{index}"] = whole[: whole.index(stop) + 1]
        for _ in range(rng.randrange(0, 4)):
            driver.step()
        if rng.random() < 0.2:
            victim = f"r{rng.randrange(0, index + 1)}"
            driver.abort(victim)
            wanted.pop(victim, None)
    driver.run()
    for request_id, tokens in wanted.items():
        if not any(final.error.retryable for final in driver.finals[request_id, 0]):
            assert driver.answer(request_id) == tokens
    assert runner_of(driver).num_followed > 100


def test_a_step_that_fails_ends_what_was_launched_after_it_too() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=20)
    driver.submit("s", PROMPT[::-1], max_tokens=20)
    for _ in range(5):
        driver.step()
    runner = runner_of(driver)
    run = runner._runner.run

    def fail(*_: object) -> list[list[Any]]:
        runner._runner.run = run  # type: ignore[method-assign]
        raise ValueError("broken")

    runner._runner.run = fail  # type: ignore[method-assign]
    driver.run()
    for request_id in ("r", "s"):
        (final,) = driver.finals[request_id, 0]
        assert final.error.message == "the step failed: broken"
    driver.submit("t", PROMPT[3:], max_tokens=3)
    driver.run()
    assert driver.answer("t") == expected(PROMPT[3:], 3)


def test_a_step_that_cannot_be_launched_costs_the_one_in_flight_nothing() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=20)
    for _ in range(5):
        driver.step()
    runner = runner_of(driver)
    launch, num_told = runner.launch, len(driver.tokens["r", 0])

    def fail(*_: object) -> Any:
        runner.launch = launch  # type: ignore[method-assign]
        raise ValueError("out of memory")

    runner.launch = fail  # type: ignore[method-assign, assignment]
    driver.run()
    (final,) = driver.finals["r", 0]
    assert final.error.message == "the step failed: out of memory"
    assert [driver.tokens["r", 0][index] for index in range(num_told)] == expected(PROMPT, 20)[:num_told]
    driver.submit("s", PROMPT, max_tokens=3)
    driver.run()
    assert driver.answer("s") == expected(PROMPT, 3)


class Silent:
    """A drafter that knows nothing, and how often it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    def propose(self, seqs: list[Seq], depth: int) -> list[Draft]:
        self.num_asked += 1
        return [Draft() for _ in seqs]


def test_where_nothing_is_guessed_for_a_while_most_steps_are_launched_ahead() -> None:
    driver = mixed()
    engine, drafter = driver.engines[0], Silent()
    engine.speculate(
        DraftedSpeculation(
            drafter,  # type: ignore[arg-type]
            max_tokens=4,
            max_model_len=engine.runner.max_model_len,
            vocab_size=engine.runner.vocab_size,
            goodput=Goodput(4),
        )
    )
    driver.submit("r", PROMPT, max_tokens=100)
    driver.run()
    assert driver.answer("r") == expected(PROMPT, 100)
    num_quiet = 100 - QUIET_STEPS
    assert drafter.num_asked <= QUIET_STEPS + num_quiet // ASK_AHEAD_EVERY + 3
    assert runner_of(driver).num_followed >= num_quiet * (ASK_AHEAD_EVERY - 1) // ASK_AHEAD_EVERY - 3
