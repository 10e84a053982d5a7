"""The engine with the fake model, which checks every block that it reads."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from baton.v1 import inference_pb2, worker_pb2
from tests.unit.engine.driver import INGRESS, OPEN, Driver, make_spec
from workers.engine.stats import since_progress_s
from workers.engine.wire import sampling_params
from workers.model.contract import DeviceLostError, Sampled
from workers.model.fake import FakeRunner
from workers.spec import Role


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


PROMPT = list(range(10, 33))  # 23 tokens: five blocks of 4 and three more


def expected(prompt: list[int], n: int = 8, choice: int = 0, **sampling: object) -> list[int]:
    settings = {"max_tokens": n, "seed": 1, "temperature": 0.0, "ignore_eos": True} | sampling
    params = sampling_params(inference_pb2.SamplingParams(**settings))  # type: ignore[arg-type]
    return FakeRunner.expected_output(prompt, params, choice, n)


def mixed(**engine: object) -> Driver:
    return Driver([make_spec(Role.MIXED, **engine)])


def pair(prefill: dict[str, object] | None = None, decode: dict[str, object] | None = None) -> Driver:
    return Driver([make_spec(Role.PREFILL, **(prefill or {})), make_spec(Role.DECODE, **(decode or {}))])


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 23, 61])
def test_an_answer_is_the_models_whatever_the_prompts_length(length: int) -> None:
    driver = mixed()
    prompt = list(range(1, length + 1))
    driver.submit("r", prompt)
    driver.run()
    assert driver.answer("r") == expected(prompt)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 23, 61])
def test_an_answer_is_the_same_when_decode_is_handed_the_prompt(length: int) -> None:
    driver = pair()
    prompt = list(range(1, length + 1))
    driver.submit("r", prompt)
    driver.run()
    assert driver.answer("r") == expected(prompt)
    assert driver.engines[1].stats.num_output_tokens == 7  # the first one is prefill's


def test_choices_share_the_prompts_blocks_and_differ_by_sampling() -> None:
    for driver in (mixed(), pair()):
        driver.submit("r", PROMPT, choices=3, temperature=1.0)
        driver.run()
        answers = [driver.answer("r", choice) for choice in range(3)]
        assert answers == [expected(PROMPT, choice=choice, temperature=1.0) for choice in range(3)]
        assert len({tuple(answer) for answer in answers}) == 3


def test_a_prefix_cached_on_either_side_changes_no_token() -> None:
    driver = pair()
    for turn, prompt in enumerate([PROMPT, PROMPT, [*PROMPT[:9], 77, 78, 79], PROMPT[:8], [*PROMPT, 5, 6]]):
        driver.submit(f"r{turn}", prompt)
        driver.run()
        assert driver.answer(f"r{turn}") == expected(prompt)
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0


def test_an_answer_that_ends_with_its_first_token_cancels_the_ticket() -> None:
    driver = pair()
    driver.submit("r", PROMPT, stop_token_ids=expected(PROMPT, 1))
    driver.run()
    assert driver.answer("r") == expected(PROMPT, 1)
    assert driver.engines[1].stats.num_output_tokens == 0


def test_an_answer_of_one_token_asks_for_no_ticket() -> None:
    driver = pair()
    driver.submit("r", PROMPT, max_tokens=1, choices=2)
    prefill = driver.engines[0]
    prefill.step()
    assert prefill.has_work
    assert prefill.serving.num_in_transfer == 0
    driver.run()
    assert [driver.answer("r", choice) for choice in range(2)] == [expected(PROMPT, 1, choice) for choice in range(2)]
    assert prefill.load.kv_bytes_sent == 0


def test_a_stop_token_ends_the_answer_and_is_named() -> None:
    tokens = expected(PROMPT)
    driver = mixed()
    driver.submit("r", PROMPT, stop_token_ids=[tokens[3]])
    driver.run()
    end = tokens.index(tokens[3])
    assert driver.answer("r") == tokens[: end + 1]
    assert driver.finals["r", 0][0].stop_reason == str(tokens[3])


def test_sequences_that_are_preempted_are_resumed_without_a_trace() -> None:
    driver = mixed(memory_bytes=2048, max_sequences=8)
    prompts = {f"r{index}": [index + 1] * 14 for index in range(6)}
    for request_id, prompt in prompts.items():
        driver.submit(request_id, prompt, max_tokens=20)
    driver.run()
    assert driver.engines[0].stats.num_preemptions > 0
    for request_id, prompt in prompts.items():
        assert driver.answer(request_id) == expected(prompt, 20)


def test_an_abort_frees_everything_at_any_moment() -> None:
    for when in range(12):
        for driver in (mixed(), pair()):
            driver.submit("r", PROMPT, choices=2)
            for _ in range(when):
                driver.step()
            driver.abort("r")
            driver.run()
            assert driver.is_clean


def test_an_abort_may_overtake_its_request() -> None:
    driver = mixed()
    driver.abort("r")
    driver.step()
    driver.submit("r", PROMPT)
    driver.run()
    assert not driver.tokens["r", 0]


def test_one_choice_is_aborted_alone() -> None:
    for driver in (mixed(), pair()):
        driver.submit("r", PROMPT, choices=3, temperature=1.0)
        driver.step()
        driver.abort("r", [0])
        driver.run()
        assert driver.answer("r", 1) == expected(PROMPT, choice=1, temperature=1.0)
        assert driver.answer("r", 2) == expected(PROMPT, choice=2, temperature=1.0)


def test_a_retry_goes_on_where_the_first_attempt_was_lost() -> None:
    driver = mixed()
    tokens = expected(PROMPT)
    submit = worker_pb2.Submit(
        request_id="r",
        attempt=1,
        prompt_token_ids=PROMPT,
        choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=tokens[:3])],
        sampling=inference_pb2.SamplingParams(max_tokens=8, seed=1, temperature=0.0, ignore_eos=True),
        timeout_s=100.0,
    )
    driver.engines[0].submit(INGRESS, submit)
    driver.run()
    assert driver.tokens["r", 0] == dict(list(enumerate(tokens))[3:])


@pytest.mark.parametrize(
    ("prompt", "match"),
    [([], "prompt: empty"), ([10**6], "not in the vocabulary"), ([1] * 100_000, "the model takes")],
)
def test_what_can_never_run_is_refused_at_once(prompt: list[int], match: str) -> None:
    driver = mixed()
    driver.submit("r", prompt)
    driver.run()
    (final,) = driver.finals["r", 0]
    assert final.error.code == "invalid_request"
    assert match in final.error.message


def test_a_step_that_fails_ends_its_requests_by_name_and_the_next_one_runs() -> None:
    driver = mixed()
    engine = driver.engines[0]
    run = engine.runner.run

    def fail(*args: object) -> list[object]:
        raise RuntimeError("no such kernel")

    engine.runner.run = fail  # type: ignore[method-assign, assignment]
    driver.submit("r", PROMPT)
    driver.run()
    assert "no such kernel" in driver.finals["r", 0][0].error.message
    engine.runner.run = run  # type: ignore[method-assign]
    driver.submit("s", PROMPT)
    driver.run()
    assert driver.answer("s") == expected(PROMPT)


def test_a_lost_device_ends_the_worker_and_nothing_of_its_step_is_told() -> None:
    driver = mixed()
    driver.submit("r", PROMPT)
    driver.step()

    def lost(*_: object) -> list[list[Sampled]]:
        raise DeviceLostError("an illegal memory access was encountered")

    driver.engines[0].runner.run = lost  # type: ignore[method-assign]
    with pytest.raises(DeviceLostError):
        driver.run()
    assert not driver.finals["r", 0]


def test_a_likelihood_that_is_no_number_ends_its_answer_by_name() -> None:
    driver = mixed()
    run = driver.engines[0].runner.run

    def broken(*arguments: Any) -> list[list[Sampled]]:
        return [[replace(token, logprob=math.nan) for token in tokens] for tokens in run(*arguments)]

    driver.engines[0].runner.run = broken  # type: ignore[method-assign]
    driver.submit("r", PROMPT, logprobs=1)
    driver.run()
    (final,) = driver.finals["r", 0]
    assert final.error.message == "the model's output is no number: are its weights whole?"
    assert not driver.tokens["r", 0]


def test_prefill_that_waits_for_a_full_decode_worker_is_not_wedged() -> None:
    driver = pair({"memory_bytes": 2048}, {"max_sequences": 1})
    for index in range(12):
        driver.submit(f"r{index}", [index + 1, *PROMPT], max_tokens=30)
    prefill = driver.engines[0]
    stalled = 0
    for _ in range(400):
        before = prefill.stats.num_steps
        driver.step()
        stalled += prefill.stats.num_steps == before and bool(prefill.scheduler.waiting)
        assert since_progress_s(prefill.stats.waiting_since_s, driver.clock.now_s) < 0.1
    assert stalled > 20
    driver.run()
    assert all(driver.answer(f"r{index}") == expected([index + 1, *PROMPT], 30) for index in range(12))


def test_a_deadline_ends_a_request() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=60)
    driver.step()
    driver.clock.now_s += 2000
    driver.run()
    assert driver.finals["r", 0][-1].error.code == "deadline_exceeded"


def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_new() -> None:
    driver = mixed()
    driver.submit("r", PROMPT)
    driver.step()
    driver.engines[0].drain()
    driver.submit("s", PROMPT)
    driver.run()
    assert driver.answer("r") == expected(PROMPT)
    assert driver.finals["s", 0][0].error.code == "preempted", "no fault of the worker's"


def test_an_ingress_that_is_gone_takes_its_requests_with_it() -> None:
    driver = pair()
    driver.submit("r", PROMPT)
    driver.step()
    for engine in driver.engines:
        engine.disconnect(INGRESS)
    driver.run()
    assert driver.is_clean


@pytest.mark.parametrize("seed", range(12))
def test_random_load_with_aborts_keeps_every_token_and_block(seed: int) -> None:
    rng = random.Random(seed)
    small: dict[str, object] = {"memory_bytes": rng.choice([2048, 4096, 1 << 16]), "max_sequences": rng.choice([3, 16])}
    driver = mixed(**small) if seed % 3 == 0 else pair(small, small)
    wanted: dict[str, tuple[list[int], int, int]] = {}
    for index in range(40):
        head = [rng.randrange(1, 5)] * 4 * rng.randrange(0, 4)  # so that some share a prefix
        prompt = [*head, *(rng.randrange(1, 200) for _ in range(rng.randrange(1, 12)))]
        choices, max_tokens = rng.choice([1, 1, 1, 2, 3]), rng.randrange(1, 9)
        driver.submit(f"r{index}", prompt, choices=choices, max_tokens=max_tokens, temperature=1.0)
        wanted[f"r{index}"] = (prompt, choices, max_tokens)
        for _ in range(rng.randrange(0, 4)):
            driver.step()
        if rng.random() < 0.33:
            victim = f"r{rng.randrange(0, index + 1)}"
            driver.abort(victim)
            wanted.pop(victim, None)
    driver.run()
    for request_id, (prompt, choices, max_tokens) in wanted.items():
        for choice in range(choices):
            if any(final.error.retryable for final in driver.finals[request_id, choice]):
                continue  # a new attempt is the dispatcher's business
            want = expected(prompt, max_tokens, choice, temperature=1.0)
            assert driver.answer(request_id, choice) == want


def test_a_draft_worker_refuses_requests_by_name() -> None:
    driver = Driver([make_spec(Role.DRAFT)])
    driver.submit("r", PROMPT)
    driver.run()
    assert driver.finals["r", 0][0].error.message == "worker draft-0 is a draft worker and takes no requests"


@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_limits_that_change_meanwhile_change_no_token(num_steps: int) -> None:
    driver = mixed()
    prompts = {f"r{number}": list(range(1, 30 + number)) for number in range(3)}
    for name, prompt in prompts.items():
        driver.submit(name, prompt)
    for step in range(num_steps):
        driver.step()
        driver.engines[0].tune(max_batched_tokens=4 + step, max_draft_tokens=1)
    driver.run()
    assert {name: driver.answer(name) for name in prompts} == {name: expected(one) for name, one in prompts.items()}


def test_steps_are_counted_by_what_they_hold() -> None:
    driver = mixed()
    driver.submit("r", list(range(1, 41)))
    driver.run()
    stats = driver.engines[0].stats
    assert stats.num_prompt_step_tokens == 40
    assert stats.num_decode_steps == stats.num_decode_step_sequences == 7
    assert stats.num_steps - stats.num_decode_steps == 3  # of 16 tokens each at most
    assert stats.prompt_steps_s > 0
    assert stats.decode_steps_s > 0
