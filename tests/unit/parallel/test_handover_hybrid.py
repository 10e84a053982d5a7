"""States and KV of hybrids between gangs of unlike degrees: each rank gets those of its own heads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baton.v1.worker_pb2 import DecodeRoute
from cluster.profiling.local_cluster import greedy, local_cluster
from tests.models import HYBRIDS
from tests.unit.engine.driver import Driver
from tests.unit.model.driver import generate
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_handover import PROMPTS, ROUTER, check_handed_over, settled
from tests.unit.parallel.test_handover_families import Leader, handing_over, leader
from tests.unit.parallel.test_sequence_processes import readers, writers
from tests.unit.parallel.test_tensor import ask, check, one_thread, prompts
from tests.unit.parallel.test_tensor_hybrid import ask_twice, folder_of, spec_with_states
from workers.kv_transfer.gang_links import LeaderLinks, Life
from workers.model.kv_store import LayerShape
from workers.model.state_shape import StateShape
from workers.spec import KVSpec, Role, WorkerSpec

__all__ = ["one_thread"]  # a fixture for all tests here

PAIRS = [(2, 1), (1, 2), (2, 4), (4, 2), (1, 4), (4, 1), (2, 2)]
USUAL = {("qwen3_5_text", (1, 2)), ("bamba", (2, 4)), ("minimax", (4, 1))}  # Bamba's two groups lie on four ranks twice


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


@contextmanager
def reading_together(ranks: RankProcesses, spec: WorkerSpec, size: int) -> Iterator[Leader]:
    """A prefill worker whose ranks divide prompts, and hold all states each: its leader hands over."""
    bugs: list[BaseException] = []
    with ranks.gang(spec, size, sequence=True) as led:
        life = Life(spec=replace(spec, secret="s3cret"), incarnation="", fingerprint=led.runner.fingerprint)
        links = LeaderLinks(life, led.runner.store, notify=lambda: None, fail=bugs.append)
        try:
            yield Leader(led.runner, links, DecodeRoute())
        finally:
            links.close()
    assert not bugs


@pytest.mark.parametrize(
    "family", [name if name == "qwen3_5_text" else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
)
def test_prompts_that_ranks_read_together_are_answered_by_ranks_that_divide_the_model(
    ranks: RankProcesses, other_ranks: RankProcesses, family: str
) -> None:
    folder = folder_of(family)
    base = spec_with_states(folder, sequence_parallel_over_tokens=4)
    specs = [replace(base, worker_id=f"{role.value}-0", role=role) for role in (Role.PREFILL, Role.DECODE)]
    with reading_together(ranks, specs[0], 4) as prefill, leader(other_ranks, specs[1], 2) as decode:
        runners = {Role.PREFILL: prefill.runner, Role.DECODE: decode.runner}
        driver = Driver(specs, lambda spec: runners[spec.role], links=(prefill.links.outbox, decode.links.inbox))
        driver.route = decode.route
        ask(driver)
        driver.run()
        check(driver, folder)
        assert driver.engines[1].inbox is not None
        assert driver.engines[1].inbox.bytes_received == whole_bytes(prefill.runner), "each head goes to one rank"


def whole_bytes(runner: Any) -> int:
    """Of KV and states of all prompts, by the store of a rank that has all of them."""
    shapes = runner.store.shapes
    states = sum(shape.nbytes for shape in shapes if isinstance(shape, StateShape))
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
