"""What is special to steps that are launched while one is in flight."""

import random
import time
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


def test_who_waits_for_blocks_gets_them_as_soon_as_a_step_in_flight_has_ended_their_holders() -> None:
    block_nbytes = 4 * 4 * 8  # of 4 layers, 4 tokens, 8 bytes
    decode_spec = make_spec(Role.DECODE, memory_bytes=9 * block_nbytes, prefix_cache=False)
    driver = Driver([make_spec(Role.PREFILL), decode_spec])
    prefill, decode = driver.engines
    for name, prompt in (("a", list(range(10, 22))), ("b", list(range(40, 52)))):  # three blocks each, and one more
        driver.submit(name, prompt, max_tokens=20, stop_token_ids=[expected(prompt, 20)[4]])
    driver.submit("c", list(range(70, 82)), max_tokens=4)
    receiving = decode.receiving
    assert receiving is not None
    for _ in range(400):
        prefill.step()
        if not decode.step():
            if receiving.num_pending and not decode.has_work:
                offered = receiving._pending[0].seq
                assert not decode.scheduler.can_receive(offered, len(receiving._granted)), "it sleeps on free blocks"
            time.sleep(0.001)
        driver.clock.now_s += 0.01
        if all(engine.is_idle for engine in driver.engines):
            break
    assert driver.answer("c") == expected(list(range(70, 82)), 4)


class Timed:
    """A device whose steps take 10 s each, on the driver's clock."""

    def __init__(self, driver: Driver) -> None:
        self._clock = driver.clock
        self._free_s = 0.0
        self._launch = runner_of(driver).launch
        runner_of(driver).launch = self.launch  # type: ignore[method-assign, assignment]

    def launch(self, *arguments: Any) -> Any:
        step = self._launch(*arguments)
        self._free_s = done_s = max(self._clock.now_s, self._free_s) + 10.0

        class Step:
            def result(_) -> Any:
                self._clock.now_s = max(self._clock.now_s, done_s)
                return step.result()

        return Step()


def test_times_of_steps_add_up_where_answers_are_told_while_the_next_one_runs() -> None:
    driver = mixed()
    engine = driver.engines[0]
    Timed(driver)
    take = engine._landing._answers.take

    def slowly(*arguments: Any) -> None:
        take(*arguments)
        driver.clock.now_s += 2.0

    engine._landing._answers.take = slowly  # type: ignore[method-assign]
    driver.submit("r", PROMPT, max_tokens=40)
    for _ in range(3):
        engine.step()
    began_s, counted_s = driver.clock.now_s, engine.stats.decode_steps_s
    while not engine.is_idle:
        engine.step()
    assert engine.stats.decode_steps_s - counted_s <= driver.clock.now_s - began_s + 12


def test_a_device_that_hangs_in_a_step_launched_in_vain_is_seen() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=20, stop_token_ids=expected(PROMPT, 6)[-1:])
    engine = driver.engines[0]
    while not driver.finals["r", 0]:
        driver.step()
    assert not engine.has_work
    assert engine.stats.waiting_since_s is not None, "a step is in flight, and nobody is said to wait for it"
    driver.step()
    assert engine.is_idle
    assert engine.stats.waiting_since_s is None


def test_tokens_are_told_before_a_step_that_is_waited_for() -> None:
    driver = mixed()
    engine = driver.engines[0]
    driver.submit("a", PROMPT, max_tokens=40)
    for _ in range(5):
        driver.step()
    counts: list[tuple[int, int]] = []
    launch = runner_of(driver).launch

    def looking(*arguments: Any) -> Any:
        step = launch(*arguments)

        class Step:
            def result(_) -> Any:
                job = engine.jobs.find("a", 0)
                assert job is not None
                counts.append((len(job.seq.output_token_ids), len(driver.tokens["a", 0])))
                return step.result()

        return Step()

    runner_of(driver).launch = looking  # type: ignore[method-assign]
    driver.submit("p", list(range(60, 70)), max_tokens=3, prompt_logprobs=1)
    for _ in range(3):
        driver.step()
    assert all(num_known == num_told for num_known, num_told in counts), counts
