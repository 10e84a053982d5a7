"""Greedy tokens and logprobs of every served family equal those of transformers' generate, in float32."""

import functools
import random

import pytest
import torch

from tests.models import FAMILIES, HYBRIDS, tiny
from tests.unit.model.driver import Driver, Expected, count_differences, generate, make_spec, prompts_of
from workers.model.registry import BUNDLED
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec

NUM_OUTPUTS = 10
LENGTHS = (
    1,
    2,
    3,
    5,
    8,
    13,
    16,
    17,
    21,
    24,
    31,
    33,
    4,
    1,
    12,
    40,
)  # of blocks of four: one token, less than one, whole


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def prompts() -> list[list[int]]:
    return prompts_of(random.Random(5), LENGTHS, 160)


@functools.cache
def expected(family: str) -> list[Expected]:
    return generate(tiny(family), prompts(), NUM_OUTPUTS)


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS])
def test_a_ragged_batch_of_sixteen_gives_the_tokens_and_logprobs_of_generate(family: str, native: bool) -> None:
    driver = Driver(TorchRunner(make_spec(tiny(family)), native=native), seed=1)
    for prompt in prompts():
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    assert [s.tokens for s in driver.streams] == [e.tokens for e in expected(family)]
    assert count_differences(driver.streams, expected(family)) == 0


@pytest.mark.parametrize("name", ["demo", "demo-hybrid"])
def test_bundled_models_give_the_tokens_and_logprobs_of_generate(name: str) -> None:
    if not (BUNDLED / name / "model.safetensors").is_file():
        pytest.skip(f"the bundled model {name} is not there")
    given = prompts_of(random.Random(2), (1, 7, 30, 65), 4096)
    engine = EngineSpec(block_size=16, memory_bytes=32 << 20, max_model_len=128)
    driver = Driver(TorchRunner(make_spec(BUNDLED / name, engine=engine)), seed=4, max_chunk=24)
    for prompt in given:
        driver.add(prompt, 12)
    driver.finish()
    assert count_differences(driver.streams, generate(BUNDLED / name, given, 12)) == 0
