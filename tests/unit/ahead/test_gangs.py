"""Gangs whose steps are launched ahead: tokens go from rank to rank where they were drawn."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.models import tiny
from tests.unit.engine.driver import RUNNERS, Driver
from tests.unit.parallel.conftest import ranks  # noqa: F401
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import ask, check, one_thread, prompts, spec  # noqa: F401
from tests.unit.parallel.test_tensor_hybrid import (  # noqa: F401
    test_drafts_are_taken_out_of_every_ranks_states,
)
from workers.model.contract import Chunk, ModelRunner, Row
from workers.model.runner import TorchRunner
from workers.parallel.runner import follow
from workers.parallel.steps import Compute, Copy, encode

CHUNK = Chunk(token_ids=(1,), start=0, block_ids=(0,), num_sequence_tokens=1)


@pytest.fixture(autouse=True)
def steps_are_launched() -> Iterator[None]:
    """By the gang itself, in place of the fixture of the same name that all others here have."""

    def ahead(runner: ModelRunner) -> ModelRunner:
        runner.runs_ahead = True
        return runner

    before, RUNNERS.wrap = RUNNERS.wrap, ahead
    yield
    RUNNERS.wrap = before


@pytest.mark.parametrize("size", [2, 3])
def test_a_gang_that_runs_ahead_gives_the_tokens_of_generate(ranks: RankProcesses, size: int) -> None:  # noqa: F811
    shape = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8, "hidden_size": 48} if size == 3 else {}
    folder = tiny("llama", **shape)
    with ranks.gang(spec(folder), size) as led:
        launch, followed = led.runner.launch, []

        def noting(batch: Any, *rest: Any) -> Any:
            followed.extend(chunk.follows for chunk in batch.chunks if chunk.follows is not None)
            return launch(batch, *rest)

        led.runner.launch = noting  # type: ignore[method-assign]
        driver = Driver([spec(folder)], lambda _: led.runner)
        ask(driver)
        driver.run()
        check(driver, folder)
        assert len(followed) > 20


def test_preempted_sequences_and_choices_are_as_on_one_rank(ranks: RankProcesses) -> None:  # noqa: F811
    folder = tiny("qwen3")
    block_nbytes = 4 * 3 * 2 * 2 * 16 * 4  # 4 tokens of 3 layers of keys and values of 2 heads of 16 floats
    tight = spec(folder, memory_bytes=14 * block_nbytes, max_model_len=None, max_batched_tokens=32)

    def answers(driver: Driver) -> list[list[int]]:
        for name in range(4):
            driver.submit(str(name), prompts()[4][name : name + 5], max_tokens=20, temperature=0.7, seed=name)
        driver.submit("n", prompts()[4][3:8], choices=3, max_tokens=6, temperature=1.0, seed=7)
        driver.run()
        return [driver.answer(str(name)) for name in range(4)] + [driver.answer("n", choice) for choice in range(3)]

    wanted = answers(Driver([spec(folder)], TorchRunner))
    with ranks.gang(tight, 2) as led:
        driver = Driver([tight], lambda _: led.runner)
        assert answers(driver) == wanted
        assert driver.engines[0].stats.num_preemptions > 0


class Leader:
    """A gang as a follower sees it, whose leader says this; "": nothing for a while."""

    def __init__(self, log: list[str], *said: Any) -> None:
        self._log = log
        self._said = list(said)

    def has_step(self) -> bool:
        if self._said and self._said[0] == "":
            self._said.pop(0)
            return False
        return True

    def wait_step(self) -> bytes | None:
        return encode(self._said.pop(0), 4) if self._said else None


class Rank:
    """A share, and who is told that steps are done."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self._num_begun = 0

    def begin(self, chunks: Any, rows: Any, on_layer: Any) -> Any:
        number = self._num_begun
        self._num_begun += 1
        self.log.append(f"begin {number}")
        log = self.log

        class Begun:
            def wait(self) -> None:
                log.append(f"wait {number}")

        return Begun()

    def copy_blocks(self, pairs: Any) -> None:
        self.log.append("copy")

    copy_states = copy_tokens = copy_blocks

    def on_layer(self, note: bytes) -> None:
        return None

    def step_done(self) -> None:
        self.log.append("done")


def test_a_follower_begins_a_step_before_the_one_before_is_done_and_tells_of_the_last_while_nothing_comes() -> None:
    ahead = Compute(chunks=[CHUNK], rows=[Row(0, 0)], is_ahead=True)
    log: list[str] = []
    rank: Any = Rank(log)
    leader: Any = Leader(log, ahead, ahead, "", ahead, Copy(pairs=[(1, 2)]))
    follow(rank, leader, rank)
    first = ["begin 0", "begin 1", "wait 0", "done", "wait 1", "done"]
    assert log == [*first, "begin 2", "wait 2", "done", "copy", "done"]
