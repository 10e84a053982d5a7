"""Torch's own way to follow tokens that are not known yet, which on a GPU lie there: here they are at hand."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import tiny
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.model.test_hybrid_engine import spec_of
from workers.model.contract import Batch, ModelRunner
from workers.model.runner import TorchRunner
from workers.spec import Role, WorkerSpec

SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "logprobs": 2}


@pytest.fixture(autouse=True)
def steps_are_launched() -> Iterator[None]:
    """By the runner itself, in place of the fixture of the same name that all others here have."""
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


class Followed:
    def __init__(self) -> None:
        self.count = 0


def ahead(spec: WorkerSpec, followed: Followed) -> ModelRunner:
    runner = TorchRunner(spec)
    runner.runs_ahead = True
    launch = runner.launch

    def counting(batch: Batch, *rest: Any) -> Any:
        followed.count += sum(chunk.follows is not None for chunk in batch.chunks)
        return launch(batch, *rest)

    runner.launch = counting  # type: ignore[method-assign]
    return runner


def answers(specs: list[WorkerSpec], make_runner: Any) -> dict[tuple[str, int], tuple[list[int], dict[int, float]]]:
    rng = random.Random(4)
    driver = Driver(specs, make_runner)
    for index in range(10):
        prompt = [rng.randrange(1, 160) for _ in range(rng.randrange(1, 40))]
        driver.submit(
            f"r{index}", prompt, max_tokens=rng.randrange(1, 14), seed=index, choices=1 + index // 8, **SAMPLING
        )
        for _ in range(rng.randrange(0, 3)):
            driver.step()
    driver.run()
    return {name: (driver.answer(*name), driver.logprobs[name]) for name in driver.finals}


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
@pytest.mark.parametrize("roles", [[Role.MIXED], [Role.PREFILL, Role.DECODE]])
def test_steps_that_follow_each_other_on_the_device_write_the_same(family: str, roles: list[Role]) -> None:
    folder: Path = tiny(family)
    spacing = {"state_cache_spacing": None} if family == "llama" else {}
    specs = [spec_of(folder, role, **spacing) for role in roles]
    followed = Followed()
    found, wanted = answers(specs, lambda spec: ahead(spec, followed)), answers(specs, TorchRunner)
    assert {name: tokens for name, (tokens, _) in found.items()} == {
        name: tokens for name, (tokens, _) in wanted.items()
    }
    for name, (_, logprobs) in found.items():
        assert logprobs == pytest.approx(wanted[name][1], abs=1e-4)
    assert followed.count > 20
