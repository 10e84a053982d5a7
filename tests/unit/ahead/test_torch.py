"""Torch's own way to follow tokens that are not known yet, which on a GPU lie there: here they are at hand."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import tiny
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.model.test_hybrid_engine import spec_of
from workers.engine.drafting import Draft
from workers.model.contract import Batch, ModelRunner, SampleRow
from workers.model.drafts import single_rows
from workers.model.runner import TorchRunner
from workers.spec import Role, WorkerSpec

SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "logprobs": 2}
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": 0.3}


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
        sampling = SAMPLING | {"max_tokens": rng.randrange(1, 14), "seed": index} | (PENALTIES if index % 2 else {})
        driver.submit(f"r{index}", prompt, choices=1 + index // 8, **sampling)
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


class Forcing:
    """Tokens 7 and 8 after every third token, forced; anything else at others."""

    eos_token_ids: frozenset[int] = frozenset()
    is_complete = False

    def copy(self) -> "Forcing":
        return self

    def sync(self, output_token_ids: Sequence[int]) -> None: ...

    def take(self, token_id: int) -> bool:
        return False

    def check(self) -> None: ...

    def forced(self, output_token_ids: Sequence[int]) -> Sequence[int]:
        return (7, 8) if len(output_token_ids) % 3 == 1 else ()

    def cut(self, draft: Draft, output_token_ids: Sequence[int]) -> Draft:
        return draft


class Masks:
    def __init__(self, rows: Sequence[int], forbidden: Any) -> None:
        self.rows, self._forbidden = rows, forbidden

    def forbidden(self) -> Any:
        return self._forbidden

    def bits(self) -> Any:
        raise NotImplementedError


class Forcers:
    def follower(self, text: str, done: Any) -> Forcing:
        return Forcing()

    def masks(self, rows: Sequence[SampleRow], followers: Sequence[Any]) -> Masks | None:
        owners = [one for row, one in zip(rows, followers, strict=True) for _ in range(1 + len(row.draft_token_ids))]
        singles = single_rows(rows)
        masked = [number for number, owner in enumerate(owners) if owner is not None]
        forbidden = np.zeros((len(masked), 160), dtype=bool)
        for at, number in enumerate(masked):
            if place := len(singles[number].output_token_ids) % 3:
                forbidden[at] = True
                forbidden[at, 6 + place] = False
        return Masks(masked, forbidden) if masked else None


@pytest.mark.parametrize("num_before", [8, 9, 10, 11])
def test_forced_tokens_of_a_hybrid_come_to_their_state_beside_a_step_in_flight(num_before: int) -> None:
    folder: Path = tiny("qwen3_next")
    plain = {"state_cache_spacing": None, "prefix_cache": False}
    specs = [spec_of(folder, role, **plain) for role in (Role.PREFILL, Role.DECODE)]
    followed = Followed()

    def answered(make_runner: Any) -> dict[tuple[str, int], list[int]]:
        rng = random.Random(4)
        driver = Driver(specs, make_runner, make_grammars=lambda _spec, _runner: Forcers())
        driver.submit("plain", [rng.randrange(1, 160) for _ in range(9)], max_tokens=30, temperature=0.8)
        for _ in range(num_before):
            driver.step()
        driver.submit("forced", [rng.randrange(1, 160) for _ in range(9)], max_tokens=12, temperature=0.8, grammar="x")
        driver.submit("other", [rng.randrange(1, 160) for _ in range(7)], max_tokens=12, temperature=0.8)
        driver.run()
        return {name: driver.answer(*name) for name in driver.finals}

    assert answered(lambda spec: ahead(spec, followed)) == answered(TorchRunner)
    assert followed.count > 10
