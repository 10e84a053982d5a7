"""Models with layers of linear attention, whose prompts several ranks read together: the tokens of generate."""

from typing import Any

import pytest

from tests.models import HYBRIDS, tiny
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.model.test_hybrid_engine import FAMILY, check, expected, run_short_of_blocks, spec_of, submit_all
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import one_thread
from workers.model.runner import TorchRunner
from workers.model.state_shape import StateShape
from workers.parallel.gathering import SequenceRanks
from workers.spec import Role, WorkerSpec

__all__ = ["one_thread"]  # a fixture for all tests here


def ranks_of(runner: Any) -> SequenceRanks:
    """The leader's."""
    found: SequenceRanks = runner._runner.sequence
    return found


def _cases() -> list[Any]:
    usual = {(FAMILY, 4), ("bamba", 3), ("minimax", 2), ("kimi_linear", 2)}
    return [
        pytest.param(family, size, marks=() if (family, size) in usual else pytest.mark.slow)
        for family in HYBRIDS
        for size in (2, 3, 4)
    ]


def spec(family: str, role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    return spec_of(tiny(family), role, **{"sequence_parallel_over_tokens": 4, **engine})


@pytest.mark.parametrize(("family", "size"), _cases())
def test_chunks_and_prefix_hits_give_the_tokens_of_generate(ranks: RankProcesses, family: str, size: int) -> None:
    with ranks.gang(spec(family), size, sequence=True) as led:
        driver = Driver([spec(family)], lambda _: led.runner)
        for _ in range(2):  # the second time from what is cached
            submit_all(driver)
            check(driver, family)
            driver.tokens.clear(), driver.finals.clear()
        assert driver.engines[0].stats.num_prefix_hit_tokens > 0
        assert ranks_of(led.runner).states.num_gathers > 0
    assert led.said == [f"ended: {led.runner.num_blocks} blocks"] * (size - 1)


@pytest.mark.parametrize(
    "family", [name if name == FAMILY else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
)
def test_states_that_ranks_found_together_are_handed_over(ranks: RankProcesses, family: str) -> None:
    specs = [spec(family, role) for role in (Role.PREFILL, Role.DECODE)]
    with ranks.gang(specs[0], 2, sequence=True) as led:
        runners = {Role.PREFILL: led.runner, Role.DECODE: TorchRunner(specs[1])}
        driver = Driver(specs, lambda spec: runners[spec.role])
        try:
            submit_all(driver)
            check(driver, family)
        finally:
            driver.close()
            OPEN.remove(driver)


@pytest.mark.parametrize(
    "family", [name if name == FAMILY else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
)
def test_drafts_beside_prompts_that_are_cut(ranks: RankProcesses, family: str) -> None:
    answers = {(f"r{index}", 0): tokens for index, tokens in enumerate(expected(family))}
    with ranks.gang(spec(family), 2, sequence=True) as led:
        driver = Driver([spec(family)], lambda _: led.runner, Oracle(answers, vocab_size=160))
        for _ in range(2):
            submit_all(driver)
            check(driver, family)
            driver.tokens.clear(), driver.finals.clear()
        stats = driver.engines[0].stats
        assert ranks_of(led.runner).states.num_gathers > 0
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens


def test_sequences_that_lose_their_blocks_are_read_again(ranks: RankProcesses) -> None:
    with ranks.gang(spec(FAMILY), 2, sequence=True) as led:
        driver = Driver([spec(FAMILY)], lambda _: led.runner)
        run_short_of_blocks(driver)
        check(driver, FAMILY)


def test_what_travels_of_a_linear_layer_does_not_depend_on_the_prompts_length(ranks: RankProcesses) -> None:
    mine = spec(FAMILY, max_batched_tokens=96, state_cache_spacing=None, prefix_cache=False)
    with ranks.gang(mine, 3, sequence=True) as led:
        driver, told = Driver([mine], lambda _: led.runner), ranks_of(led.runner).states
        shape = next(one for one in led.runner.store.shapes if isinstance(one, StateShape))  # type: ignore[attr-defined]
        heads, (d_k, d_v) = shape.parts[0].num_heads, shape.parts[0].shape
        for number, length in enumerate((12, 80)):
            before = (told.num_gathers, told.num_bytes)
            driver.submit(str(number), [7 + i % 50 for i in range(length)], max_tokens=1)
            driver.run()
            num_gathers, num_bytes = told.num_gathers - before[0], told.num_bytes - before[1]
            assert num_gathers == 2, "of three layers two are linear"
            assert num_bytes == num_gathers * heads * d_k * (d_v + d_k) * 4 * 3
