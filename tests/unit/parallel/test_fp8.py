"""Keys and values in FP8 on several ranks, each with the factors of its heads: the tokens of one rank."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.profiling.local_cluster import greedy, local_cluster
from tests.models import tiny
from tests.unit.engine.driver import Driver
from tests.unit.model.scaled import scaled
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_handover import PROMPTS, ROUTER, check_handed_over, pools, settled
from tests.unit.parallel.test_handover_families import handing_over
from tests.unit.parallel.test_sequence_engine import gathered, shared
from tests.unit.parallel.test_tensor import LENGTHS, ask, one_thread
from workers.model.runner import TorchRunner
from workers.spec import KVSpec, WorkerSpec

__all__ = ["one_thread"]  # a fixture for all tests here


def fp8_spec(folder: Path) -> WorkerSpec:
    return replace(shared("llama", folder), kv=KVSpec(dtype="fp8", lease_s=5.0))


def answers(driver: Driver) -> list[list[int]]:
    ask(driver)
    driver.run()
    return [driver.answer(str(number)) for number in range(len(LENGTHS))]


@pytest.mark.parametrize("sequence", [False, True])
def test_ranks_that_divide_a_model_or_its_prompts(ranks: RankProcesses, tmp_path: Path, sequence: bool) -> None:
    spec = fp8_spec(scaled(tiny("llama"), tmp_path))
    alone = TorchRunner(spec)
    want = answers(Driver([spec], lambda _: alone))
    with ranks.gang(spec, 2, sequence=sequence) as led:
        assert answers(Driver([spec], lambda _: led.runner)) == want
        assert led.runner.num_blocks == alone.num_blocks


def test_ranks_that_read_prompts_together_tell_each_other_bytes(ranks: RankProcesses) -> None:
    spec = fp8_spec(tiny("llama"))
    told = []
    for kv in (KVSpec(), spec.kv):
        one = replace(spec, kv=kv)
        with ranks.gang(one, 2, sequence=True) as led:
            answers(Driver([one], lambda _, led=led: led.runner))  # type: ignore[misc]
            told.append(gathered(led.runner).num_bytes)
    assert told[0] == 4 * told[1] > 0, "a byte for each float32"


@pytest.mark.parametrize(
    "transport", ["auto", pytest.param("grpc", marks=pytest.mark.slow), pytest.param("gloo", marks=pytest.mark.slow)]
)
async def test_links_between_processes_move_bytes(tmp_path: Path, transport: str) -> None:
    spec = fp8_spec(scaled(tiny("llama"), tmp_path / "model"))
    spec = replace(spec, kv=replace(spec.kv, transport=transport))
    driver = Driver([spec], TorchRunner)
    for number, prompt in enumerate(PROMPTS):
        driver.submit(str(number), prompt, max_tokens=8)
    driver.run()
    async with local_cluster(pools(spec, 1, 1), ROUTER, tmp_path / "log") as cluster:
        for number, prompt in enumerate(PROMPTS):
            (found,) = await cluster.answer(prompt, greedy(8))
            assert found.token_ids == driver.answer(str(number))
        check_handed_over(await settled(cluster))


@pytest.mark.parametrize(("senders", "receivers"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_unlike_gangs_hand_bytes_over(
    ranks: RankProcesses, other_ranks: RankProcesses, tmp_path: Path, senders: int, receivers: int
) -> None:
    spec = fp8_spec(scaled(tiny("llama"), tmp_path))
    want = answers(Driver([spec], TorchRunner))
    with handing_over((ranks, other_ranks), spec, senders, receivers) as driver:
        assert answers(driver) == want
