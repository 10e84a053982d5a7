"""Gangs that share out a draft model's layers: whatever the ranks, they draft what one rank does with such groups."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.errors import ConfigError
from tests.unit.model.driver import generate, make_spec, prompts_of
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.speculative.drafting_rounds import Drafting, model
from workers.model.contract import ChunkKind, ModelRunner
from workers.model.runner import TorchRunner
from workers.spec import GangSpec, Role, WorkerSpec
from workers.speculative.layer_parallel import LayerParallelRunner

PROMPTS = prompts_of(random.Random(5), (1, 4, 17, 33), 160)
DEPTH = 5
DEMO = "demo-draft"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rounds(runner: ModelRunner) -> list[list[int]]:
    """What is drafted in three rounds, each after a calibration; two of each round's tokens are kept."""
    drafting, drafted = Drafting(runner, PROMPTS), []
    for _ in range(3):
        drafting.round(DEPTH)
        drafted += [text[-DEPTH:] for text in drafting.texts]
        drafting.reject(DEPTH - 2)
        drafting.read_again(2)
    return drafted


def exact(runner: ModelRunner) -> list[list[int]]:
    drafting = Drafting(runner, PROMPTS)
    for _ in range(DEPTH):
        drafting.step(ChunkKind.DECODE)
    return drafting.outputs


@pytest.mark.parametrize(
    ("family", "size", "group"),
    [
        pytest.param("llama", 2, 1, marks=pytest.mark.slow),
        ("llama", 2, 2),
        pytest.param("llama", 2, 4, marks=pytest.mark.slow),
        ("gemma3_text", 3, 3),
        pytest.param("olmo2", 2, 2, marks=pytest.mark.slow),
        pytest.param("granite", 2, 3, marks=pytest.mark.slow),
        pytest.param("phi3", 2, 2, marks=pytest.mark.slow),
        pytest.param("qwen2", 3, 2, marks=pytest.mark.slow),
        (DEMO, 2, 2),  # whose halves are single calls of C
    ],
)
def test_a_gang_drafts_what_one_rank_does_and_reads_exactly(
    ranks: RankProcesses, family: str, size: int, group: int
) -> None:
    folder = Path("workers/model/bundled", DEMO).resolve() if family == DEMO else model(family)
    spec = make_spec(folder)
    alone = LayerParallelRunner(replace(spec, gang=GangSpec(layer_group=group)))
    with ranks.gang(spec, size, layer_group=group) as led:
        assert rounds(led.runner) == rounds(alone)
        assert exact(led.runner) == [want.tokens for want in generate(folder, PROMPTS, DEPTH)]
        plain = TorchRunner(spec)
        for fact in ("fingerprint", "num_blocks", "max_model_len", "kv_shares"):
            assert getattr(led.runner, fact) == getattr(plain, fact), fact
    assert len(led.said) == size - 1
    assert all(said.startswith("Held(layers=[") for said in led.said)


def test_all_ranks_take_as_many_layers_at_once_as_the_leader_says(ranks: RankProcesses) -> None:
    folder = model("llama")
    alone = LayerParallelRunner(replace(make_spec(folder), gang=GangSpec(layer_group=2)))
    with ranks.gang(make_spec(folder), 2, layer_group=0) as led:
        assert rounds(led.runner) == rounds(alone)


def test_a_worker_that_does_not_draft_is_no_such_gang() -> None:
    from workers.parallel.axes import Axes

    spec: WorkerSpec = replace(make_spec(model("llama"), role=Role.PREFILL), gang=GangSpec(layer_parallel=2))
    with pytest.raises(ConfigError, match="layer_parallel: 2 is for draft workers; a prefill worker's answers"):
        Axes(spec, None)  # type: ignore[arg-type]
