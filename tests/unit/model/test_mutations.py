"""The equality tests can see: a feature left out, or a spoiled block, changes tokens or logprobs."""

import functools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models import tiny
from tests.unit.model.driver import Driver, Expected, count_differences, generate, make_spec, prompts_of
from workers.model.attention import PagedAttention, PagedMeta, Scoring
from workers.model.fp8 import KVScales
from workers.model.runner import TorchRunner

NUM_OUTPUTS = 6
LENGTHS = (19, 30)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _prompts() -> list[list[int]]:
    return prompts_of(random.Random(8), LENGTHS, 160)


@functools.cache
def expected(family: str) -> list[Expected]:
    return generate(tiny(family), _prompts(), NUM_OUTPUTS)


def forgetting(attention: PagedAttention, **forgotten: Any) -> PagedAttention:
    """`attention` with some of its arguments replaced."""

    def attend(
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor:
        return attention(query, k_cache, v_cache, meta, scoring._replace(**forgotten), scales)

    return attend


def _differences(family: str, **forgotten: Any) -> int:
    runner = TorchRunner(make_spec(tiny(family)))
    if forgotten:
        runner.attention = forgetting(runner.attention, **forgotten)
    driver = Driver(runner, seed=2)
    for prompt in _prompts():
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    return count_differences(driver.streams, expected(family))


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3_text", "phi3", "gpt_oss"])
def test_leaving_out_the_window_is_seen(family: str) -> None:
    assert _differences(family) == 0
    assert _differences(family, window=None) > 0


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gpt_oss"])
def test_a_window_wider_by_one_token_is_seen(family: str) -> None:
    right = {"mistral": 7, "gemma2": 7, "gpt_oss": 7}[family]
    runner = TorchRunner(make_spec(tiny(family)))
    attention = runner.attention

    def widened(
        query: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: PagedMeta,
        scoring: Scoring,
        scales: KVScales | None = None,
    ) -> Tensor:
        if scoring.window is not None:
            assert scoring.window == right
            scoring = scoring._replace(window=scoring.window + 1)
        return attention(query, k_cache, v_cache, meta, scoring, scales)

    runner.attention = widened
    driver = Driver(runner, seed=2)
    for prompt in _prompts():
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    assert count_differences(driver.streams, expected(family)) > 0


def test_leaving_out_the_soft_cap_is_seen() -> None:
    assert _differences("gemma2", softcap=None) > 0


def test_leaving_out_the_final_soft_cap_is_seen() -> None:
    runner = TorchRunner(make_spec(tiny("gemma2")))
    runner.model.config.final_logit_softcapping = None
    driver = Driver(runner, seed=2)
    for prompt in _prompts():
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    assert count_differences(driver.streams, expected("gemma2")) > 0


def test_leaving_out_the_sinks_is_seen() -> None:
    assert _differences("gpt_oss", sinks=None) > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_a_wrong_scale_is_seen(family: str) -> None:
    # Gemma scales by query_pre_attn_scalar, the others by the head's size: each gets the other's factor
    assert _differences(family, scale=24**-0.5 if family == "llama" else 16**-0.5) > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_one_spoiled_block_is_seen(family: str) -> None:
    runner = TorchRunner(make_spec(tiny(family)))
    driver = Driver(runner, seed=2)
    for prompt in _prompts():
        driver.add(prompt, NUM_OUTPUTS)
    while not driver.streams[0].tokens:
        driver.step()
    spoiled = driver.streams[0].blocks[len(_prompts()[0]) // 4 - 1]
    runner.store.layers[1][0, spoiled] += 0.5
    driver.finish()
    assert count_differences(driver.streams[:1], expected(family)[:1]) > 0
    assert count_differences(driver.streams[1:], expected(family)[1:]) == 0
