"""How likely prompts' tokens are, told by engines with the fake model: each token once, in order, whoever reads it."""

from collections.abc import Iterator, Sequence

import pytest

from baton.v1 import inference_pb2, worker_pb2
from tests.unit.engine.driver import INGRESS, OPEN, Driver, make_spec
from tests.unit.engine.stateful_fake import StatefulFakeRunner
from workers.model.fake import FakeRunner
from workers.spec import Role

PROMPT = list(range(10, 33))  # 23 tokens: five blocks of 4 and three more


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def mixed(**engine: object) -> Driver:
    return Driver([make_spec(Role.MIXED, **engine)])


def pair() -> Driver:
    return Driver([make_spec(Role.PREFILL), make_spec(Role.DECODE)])


def expected(prompt: Sequence[int]) -> list[tuple[float, int]]:
    return [FakeRunner.expected_prompt_logprob(prompt, place) for place in range(1, len(prompt))]


def told(driver: Driver, request_id: str) -> list[tuple[float, int]]:
    """Checked to be in order and without a gap or a token twice."""
    found: list[tuple[float, int]] = []
    for news in driver.prompts[request_id]:
        assert news.start == len(found) + 1
        assert len(news.top_token_ids) == len(news.top_logprobs) == news.num_top * len(news.ranks)
        found += [(round(value, 3), rank) for value, rank in zip(news.logprobs, news.ranks, strict=True)]
    return found


@pytest.mark.parametrize("length", [1, 2, 4, 5, 16, 17, 23, 61])
@pytest.mark.parametrize("max_tokens", [0, 1, 8])
@pytest.mark.parametrize("make", [mixed, pair])
def test_each_token_is_told_before_the_answer(make: type[Driver], length: int, max_tokens: int) -> None:
    driver, prompt = make(), list(range(7, 7 + length))
    driver.submit("r", prompt, prompt_logprobs=2, max_tokens=max_tokens)
    driver.run()
    assert told(driver, "r") == expected(prompt)
    assert len(driver.answer("r")) == max_tokens
    (final,) = driver.finals["r", 0]
    assert final.finish_reason == inference_pb2.FINISH_REASON_LENGTH


def test_nothing_is_handed_over_where_nothing_is_to_be_written() -> None:
    driver = pair()
    driver.submit("r", PROMPT, prompt_logprobs=0, max_tokens=0, choices=2)
    driver.run()
    assert told(driver, "r") == expected(PROMPT)
    assert [len(driver.finals["r", choice]) for choice in range(2)] == [1, 1]
    assert driver.engines[1].stats.num_prompt_tokens == 0


def test_a_prompt_may_be_read_without_a_word_about_it() -> None:
    driver = mixed()
    driver.submit("r", PROMPT, max_tokens=0)
    driver.run()
    assert driver.answer("r") == []
    assert not driver.prompts


def test_a_prompt_that_fills_the_context_can_be_read() -> None:
    driver = mixed(max_model_len=24)
    driver.submit("full", [1] * 24, prompt_logprobs=0, max_tokens=0)
    driver.submit("over", [1] * 25, prompt_logprobs=0, max_tokens=0)
    driver.submit("none left", [1] * 24, prompt_logprobs=0, max_tokens=1)
    driver.run()
    assert told(driver, "full") == expected([1] * 24)
    assert [driver.finals[name, 0][0].error.code for name in ("over", "none left")] == ["invalid_request"] * 2


@pytest.mark.parametrize("make", [mixed, pair])
def test_choices_tell_of_their_prompt_once(make: type[Driver]) -> None:
    driver = make()
    driver.submit("r", PROMPT, prompt_logprobs=1, choices=3, temperature=1.0)
    driver.run()
    assert told(driver, "r") == expected(PROMPT)


@pytest.mark.parametrize("make", [mixed, pair])
def test_a_cached_prefix_is_read_again_by_those_who_ask_alone(make: type[Driver]) -> None:
    driver = make()
    for turn, asks in enumerate((False, True, True, False)):
        driver.submit(f"r{turn}", PROMPT, **({"prompt_logprobs": 1} if asks else {}))
        driver.run()
        assert told(driver, f"r{turn}") == (expected(PROMPT) if asks else [])
    assert driver.engines[0].stats.num_prefix_hit_tokens == 20  # of the last one


def test_a_new_attempt_goes_on_where_the_last_one_was() -> None:
    driver = mixed()
    driver.submit("warm", PROMPT)
    driver.run()
    submit = worker_pb2.Submit(
        request_id="r",
        prompt_token_ids=PROMPT,
        choices=[worker_pb2.ChoiceStart(choice=0)],
        sampling=inference_pb2.SamplingParams(max_tokens=1, prompt_logprobs=0, ignore_eos=True),
        timeout_s=100.0,
        num_prompt_logprobs=15,  # places 1 to 14 are told
    )
    driver.engines[0].submit(INGRESS, submit)
    driver.run()
    (final,) = driver.finals["r", 0]
    assert final.num_cached_tokens == 12  # the 15th token is known by what the 14th was made into, in the fourth block
    (news,) = driver.prompts["r"]
    assert news.start <= 15
    assert [round(value, 3) for value in news.logprobs] == [value for value, _ in expected(PROMPT)[news.start - 1 :]]


def test_one_that_is_preempted_tells_nothing_twice_but_for_the_last_block() -> None:
    driver = mixed(memory_bytes=2048, max_sequences=8, max_batched_tokens=9)
    prompts = {f"r{number}": list(range(number, number + 22)) for number in range(1, 7)}
    for name, prompt in prompts.items():
        driver.submit(name, prompt, prompt_logprobs=0, max_tokens=20)
    driver.run()
    assert driver.engines[0].stats.num_preemptions > 0
    num_told = 0
    for name, prompt in prompts.items():
        places: dict[int, float] = {}
        for news in driver.prompts[name]:
            assert news.start <= len(places) + 1
            places |= {news.start + at: round(value, 3) for at, value in enumerate(news.logprobs)}
            num_told += len(news.logprobs)
        assert [places[place] for place in range(1, 22)] == [value for value, _ in expected(prompt)]
    assert num_told < 6 * (21 + driver.engines[0].blocks.block_size)


def test_models_with_states_tell_the_same() -> None:
    driver = Driver([make_spec(Role.MIXED)], StatefulFakeRunner)
    for turn in range(2):
        driver.submit(f"r{turn}", PROMPT, prompt_logprobs=1)
        driver.run()
        assert told(driver, f"r{turn}") == expected(PROMPT)


def test_others_in_the_batch_are_not_told_of() -> None:
    driver = mixed(max_batched_tokens=64)
    driver.submit("asks", PROMPT, prompt_logprobs=1)
    driver.submit("does not", PROMPT[:9])
    driver.submit("asks too", PROMPT[5:], prompt_logprobs=3)
    driver.run()
    assert set(driver.prompts) == {"asks", "asks too"}
    assert told(driver, "asks") == expected(PROMPT)
    assert told(driver, "asks too") == expected(PROMPT[5:])
