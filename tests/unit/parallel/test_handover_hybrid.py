"""States and KV of hybrids between gangs of unlike degrees: each rank gets those of its own heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.profiling.local_cluster import greedy, local_cluster
from tests.models import HYBRIDS
from tests.unit.model.driver import generate
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_handover import PROMPTS, ROUTER, check_handed_over, settled
from tests.unit.parallel.test_handover_families import handing_over
from tests.unit.parallel.test_sequence_processes import readers, writers
from tests.unit.parallel.test_tensor import ask, check, one_thread, prompts
from tests.unit.parallel.test_tensor_hybrid import ask_twice, folder_of, spec_with_states
from workers.model.kv_store import LayerShape
from workers.model.places import Degrees
from workers.model.state_shape import StateShape
from workers.spec import KVSpec

__all__ = ["one_thread"]  # a fixture for all tests here

PAIRS = [(2, 1), (1, 2), (2, 4), (4, 2), (1, 4), (4, 1), (2, 2)]
USUAL = {("qwen3_5_text", (1, 2)), ("bamba", (2, 4))}  # Bamba's two groups lie on four ranks twice


def _cases() -> list[Any]:
    return [
        pytest.param(family, *pair, marks=() if (family, pair) in USUAL else pytest.mark.slow)
        for family in HYBRIDS
        for pair in PAIRS
    ]


@pytest.mark.parametrize(("family", "senders", "receivers"), _cases())
def test_unlike_gangs_give_the_tokens_of_generate(
    ranks: RankProcesses, other_ranks: RankProcesses, family: str, senders: int, receivers: int
) -> None:
    folder = folder_of(family)
    with handing_over((ranks, other_ranks), spec_with_states(folder), senders, receivers) as driver:
        ask_twice(driver, folder)
        states = [shape.nbytes for shape in driver.engines[0].runner.store.shapes[::2]]  # type: ignore[attr-defined]
        assert driver.engines[0].load.kv_bytes_sent > sum(states)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["gloo", "grpc"])
def test_parts_of_states_travel_over_every_transport(
    ranks: RankProcesses, other_ranks: RankProcesses, transport: str
) -> None:
    folder = folder_of("qwen3_next")
    base = replace(spec_with_states(folder), kv=KVSpec(transport=transport))
    with handing_over((ranks, other_ranks), base, 2, 4) as driver:
        ask_twice(driver, folder)


@pytest.mark.parametrize(
    "family", [name if name == "qwen3_5_text" else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
)
def test_prompts_that_ranks_read_together_are_answered_by_ranks_that_divide_the_model(
    ranks: RankProcesses, other_ranks: RankProcesses, family: str
) -> None:
    folder = folder_of(family)
    base = spec_with_states(folder, sequence_parallel_over_tokens=4)
    with handing_over((ranks, other_ranks), base, Degrees(sequence=4), 2) as driver:
        ask(driver)
        driver.run()
        check(driver, folder)
        assert driver.engines[1].inbox is not None
        received, whole = driver.engines[1].inbox.bytes_received, whole_bytes(driver.engines[0].runner, 2)
        assert received == whole, "each head goes to each rank that holds it, once"


def whole_bytes(runner: Any, degree: int) -> int:
    """Of KV and states of all prompts, by the store of a rank that has all of them; of groups fewer than the `degree`
    of the receiving ranks, which several of these hold, as often.
    """
    shapes = runner.store.shapes
    parts = [part for shape in shapes if isinstance(shape, StateShape) for part in shape.parts]
    states = sum(part.nbytes * max(degree // part.num_heads, 1) for part in parts)
    token = sum(shape.token_nbytes(torch.float32) for shape in shapes if isinstance(shape, LayerShape))
    return sum(states + len(prompt) * token for prompt in prompts())


@pytest.mark.slow
async def test_processes_that_read_together_and_answer_together_give_the_tokens_of_generate(tmp_path: Path) -> None:
    folder = folder_of("qwen3_5_text")
    wanted = [answer.tokens for answer in generate(folder, PROMPTS, 8)]
    base = spec_with_states(folder, max_batched_tokens=18, sequence_parallel_over_tokens=6, state_cache_spacing=20)
    async with local_cluster([*readers(base, 4), *writers(base, 2)], ROUTER, tmp_path / "log") as cluster:
        for prompt, tokens in zip(PROMPTS, wanted, strict=True):
            (answer,) = await cluster.answer(prompt, greedy(8))
            assert answer.token_ids == tokens
        check_handed_over(await settled(cluster))
