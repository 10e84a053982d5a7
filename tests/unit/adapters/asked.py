"""The same prompts with several adapters and without, in whole engines; and what transformers answers to each."""

import functools
import random
from dataclasses import replace
from pathlib import Path

from baton.v1 import worker_pb2
from tests.adapters import ATTENTION, MLP, adapter_of, merged
from tests.unit.engine.driver import Driver
from tests.unit.model.driver import generate, prompts_of
from tests.unit.model.test_hybrid_engine import spec_of
from workers.adapters.adapter import AdapterSpec
from workers.adapters.peft_folder import read_adapter
from workers.spec import Role, WorkerSpec

NUM_OUTPUTS = 8
LENGTHS = (3, 9, 17, 30)
NAMES = ("", "one", "two")


TARGETS = {  # where a family's layers are called otherwise
    "phi3": (("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), ("qkv_proj",)),
    "qwen3_next": (("q_proj", "o_proj", "in_proj_qkvz", "out_proj"), ("in_proj_ba", "v_proj")),
    "bamba": (("in_proj", "out_proj", "q_proj", "gate_proj"), ("in_proj", "down_proj")),
}


def adapters(base: Path) -> dict[str, Path]:
    """Of other ranks, targets and scales."""
    family = base.name.removeprefix("baton-tiny-").rpartition("-")[0]
    usual = (ATTENTION + MLP, ("q_proj", "v_proj", "down_proj"))
    first, second = TARGETS.get(family, usual)
    return {"one": adapter_of(base, 1, first), "two": adapter_of(base, 2, second, r=3, use_rslora=True)}


def named(folders: dict[str, Path]) -> tuple[AdapterSpec, ...]:
    return tuple(
        AdapterSpec(name=name, folder=str(folder), content_hash=read_adapter(name, folder).content_hash)
        for name, folder in folders.items()
    )


def adapted_spec(base: Path, role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    settings = {"state_cache_spacing": None} | engine
    return replace(spec_of(base, role, **settings), adapters=named(adapters(base)))


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
