"""How likely prompts' tokens are, told by gangs: where ranks divide the vocabulary, prompts, or both."""

from typing import Any

import pytest

from tests.models import tiny
from tests.unit.engine.driver import Driver
from tests.unit.model.prompt_scores import NUM_TOP, check
from tests.unit.model.test_prompt_logprobs import expected, prompts
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_sequence_engine import shared
from tests.unit.parallel.test_sequence_tensor import _wait_for_counts
from tests.unit.parallel.test_tensor import one_thread, spec
from tests.unit.parallel.test_tensor_hybrid import folder_of, spec_with_states

__all__ = ["one_thread"]  # a fixture for all tests here


def ask_and_check(driver: Driver, folder: Any) -> None:
    for number, prompt in enumerate(prompts()):
        asks = {"prompt_logprobs": NUM_TOP} if number != 2 else {}
        driver.submit(str(number), prompt, max_tokens=number % 3, **asks)
    driver.run()
    for number, prompt in enumerate(prompts()):
        if number == 2 or len(prompt) == 1:
            assert not driver.prompts[str(number)]
        else:
            check(driver, str(number), prompt, expected(folder)[number])
        assert len(driver.answer(str(number))) == number % 3


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("gemma2", 2),
        pytest.param("llama", 4, marks=pytest.mark.slow),
        pytest.param("gpt_oss", 2, marks=pytest.mark.slow),
    ],
)
def test_ranks_that_divide_the_vocabulary(ranks: RankProcesses, family: str, size: int) -> None:
    folder = tiny(family)
    with ranks.gang(spec(folder), size) as led:
        ask_and_check(Driver([spec(folder)], lambda _: led.runner), folder)


@pytest.mark.parametrize(("family", "size"), [("qwen3", 2), pytest.param("gemma3_text", 3, marks=pytest.mark.slow)])
def test_ranks_that_divide_prompts(ranks: RankProcesses, family: str, size: int) -> None:
    mine = shared(family)
    with ranks.gang(mine, size, sequence=True) as led:
        ask_and_check(Driver([mine], lambda _: led.runner), tiny(family))


def test_ranks_that_divide_both_and_count_alike(ranks: RankProcesses) -> None:
    mine = shared("llama")
    with ranks.gang(mine, 4, sequence=True, tensor=2) as led:
        ask_and_check(Driver([mine], lambda _: led.runner), tiny("llama"))
        _wait_for_counts(led)


@pytest.mark.slow
@pytest.mark.parametrize("sequence", [False, True])
def test_hybrids(ranks: RankProcesses, sequence: bool) -> None:
    folder = folder_of("qwen3_5_text")
    mine = spec_with_states(folder)
    with ranks.gang(mine, 2, sequence=sequence) as led:
        ask_and_check(Driver([mine], lambda _: led.runner), folder)
