"""Requests with LoRA adapters, several in one batch, in whole engines: tokens are those of PEFT's merged weights.

All in float32, by transformers' greedy generate; sampled ones against an engine that serves the merged weights.
"""

import functools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.v1 import worker_pb2
from tests.adapters import adapter_of, merged
from tests.models import tiny
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.model.driver import generate, prompts_of
from tests.unit.model.test_hybrid_engine import spec_of
from workers.adapters.adapter import AdapterSpec
from workers.adapters.peft_folder import read_adapter
from workers.model.runner import TorchRunner
from workers.spec import Role, WorkerSpec

NUM_OUTPUTS = 8
LENGTHS = (3, 9, 17, 30)
NAMES = ("", "one", "two")
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")


@pytest.fixture(autouse=True)
def _one_thread_and_closed_links() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


def adapters(base: Path) -> dict[str, Path]:
    """Of other ranks, targets and scales."""
    return {
        "one": adapter_of(base, 1),
        "two": adapter_of(base, 2, ("q_proj", "v_proj", "down_proj"), r=3, use_rslora=True),
    }


def named(folders: dict[str, Path]) -> tuple[AdapterSpec, ...]:
    return tuple(
        AdapterSpec(name=name, folder=str(folder), content_hash=read_adapter(name, folder).content_hash)
        for name, folder in folders.items()
    )


def adapted_spec(base: Path, role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    return replace(spec_of(base, role, state_cache_spacing=None, **engine), adapters=named(adapters(base)))


@functools.cache
def prompts() -> list[list[int]]:
    """The last begins as another does."""
    given = prompts_of(random.Random(5), LENGTHS, 160)
    return [*given, [*given[-1][:21], 5, 6]]


@functools.cache
def expected(base: Path, name: str) -> list[list[int]]:
    folder = merged(base, adapters(base)[name]) if name else base
    return [found.tokens for found in generate(folder, prompts(), NUM_OUTPUTS)]


def submit(driver: Driver, request_id: str, prompt: list[int], adapter: AdapterSpec | None, **sampling: object) -> None:
    if adapter is not None:
        driver.adapter = worker_pb2.Adapter(name=adapter.name, hash=adapter.content_hash)
    driver.submit(request_id, prompt, max_tokens=NUM_OUTPUTS, **sampling)
    driver.adapter = None


def submit_all(driver: Driver) -> None:
    """Each prompt with each adapter and without, some while others decode."""
    by_name = {adapter.name: adapter for adapter in driver.engines[0].spec.adapters}
    for index, prompt in enumerate(prompts()):
        for name in NAMES:
            submit(driver, f"{name}/{index}", prompt, by_name.get(name))
        driver.step()


def check(driver: Driver, base: Path) -> None:
    driver.run()
    for name in NAMES:
        found = [driver.answer(f"{name}/{index}") for index in range(len(prompts()))]
        assert found == expected(base, name), name
    driver.tokens.clear(), driver.finals.clear()


def test_the_adapters_change_tokens() -> None:
    base = tiny("llama")
    assert expected(base, "") != expected(base, "one") != expected(base, "two") != expected(base, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_several_adapters_in_chunks_with_prefix_hits(family: str) -> None:
    base = tiny(family)
    driver = Driver([adapted_spec(base)], TorchRunner)
    submit_all(driver)
    check(driver, base)
    num_hits = driver.engines[0].stats.num_prefix_hit_tokens
    submit_all(driver)  # each from blocks of its own adapter
    check(driver, base)
    assert driver.engines[0].stats.num_prefix_hit_tokens >= num_hits + 3 * 4 * 10


def test_the_handed_over_go_on_with_their_adapter() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base, role) for role in (Role.PREFILL, Role.DECODE)], TorchRunner)
    for _ in range(2):
        submit_all(driver)
        check(driver, base)
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0
