"""Every drafter with every width, draft models of 1 to 4 layers at once: greedy answers, in float32, are those without.

`tests.contract.test_drafters` has what drafters must do otherwise, and sampling. Slow but for some.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import pytest

from tests.contract.test_drafters import answers
from tests.draft_server import DraftServer, Following, waiting_drafter
from tests.models import near, silenced, tiny
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.model.driver import make_spec
from tests.unit.parallel.gangs import RankProcesses
from workers.engine.drafting import Drafter
from workers.engine.engine import Engine
from workers.model.contract import ModelRunner
from workers.model.layer_subset import LayerSubset
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, GangSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.draft_model import ModelDrafter
from workers.speculative.draft_runner import load_draft_runner
from workers.speculative.layer_choice import Level
from workers.speculative.layer_parallel import LayerParallelRunner
from workers.speculative.ngram import NgramDrafter
from workers.speculative.recycling import RecyclingDrafter, Successors
from workers.speculative.self_drafting import SelfDrafter

TARGET = silenced(tiny("llama", num_hidden_layers=6), [1, 3], 0.1)
HYBRID = tiny("qwen3_5_text")
DRAFT = near(TARGET, 0.12)
WIDTHS = (1, 4, 8)
LAYERS_AT_ONCE = (1, 2, 3, 4)
GREEDY = "greedy"


@dataclass(frozen=True)
class Cell:
    """`num_layers`: that attend at once in a draft worker; 0: nothing is drafted elsewhere."""

    who: str
    width: int
    num_layers: int = 0

    def __str__(self) -> str:
        return (
            f"{self.who}-{self.num_layers}-width-{self.width}" if self.num_layers else f"{self.who}-width-{self.width}"
        )

    def drafter(self, spec: WorkerSpec, runner: ModelRunner) -> Drafter:
        if self.num_layers:
            wide = replace(spec, speculation=SpeculationSpec(tree_width=self.width))
            return Following(waiting_drafter(wide, runner.vocab_size), server(self.num_layers).route)
        paths = HERE[self.who](spec, runner, self.width)
        if self.width == 1:
            return paths
        return RecyclingDrafter(paths, Successors(runner.vocab_size), width=self.width)


def model_drafter(spec: WorkerSpec, runner: ModelRunner, width: int) -> Drafter:
    return ModelDrafter(load_draft_runner(replace(spec, draft_model=str(DRAFT)), runner), kind=4)


def self_drafter(spec: WorkerSpec, runner: ModelRunner, width: int) -> Drafter:
    assert isinstance(runner, TorchRunner)
    return SelfDrafter(LayerSubset(runner), [Level(frozenset({1, 3}), 0.8, 0.6)], kind=4)


HERE: dict[str, Callable[[WorkerSpec, ModelRunner, int], Drafter]] = {
    "ngram": lambda spec, runner, width: NgramDrafter(width),
    "self": self_drafter,
    "draft": model_drafter,
}
CELLS = [Cell(who, width) for who in HERE for width in WIDTHS]
REMOTE = [Cell("remote", width, num_layers) for num_layers in LAYERS_AT_ONCE for width in WIDTHS]
QUICK = {(Cell("remote", 4, 2), 4), (Cell("remote", 1, 3), 4), (Cell("remote", 8, 4), 4)}  # cells and sequences
each_cell = pytest.mark.parametrize("cell", [*CELLS, *REMOTE], ids=str)
each_cell_and_count = pytest.mark.parametrize(
    ("cell", "count"),
    [
        pytest.param(cell, count, marks=() if (cell, count) in QUICK else pytest.mark.slow)
        for cell in (*CELLS, *REMOTE)
        for count in (1, 4, 16)
    ],
    ids=str,
)


@cache
def server(num_layers: int) -> DraftServer:
    """Of one rank, which drafts as so many would."""
    engine = spec_of().engine
    gang = GangSpec(layer_group=num_layers)
    spec = make_spec(DRAFT, role=Role.DRAFT, worker_id=f"draft-{num_layers}", engine=engine, gang=gang)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.actor.build_runner", LayerParallelRunner)
        made = DraftServer(spec)
    SERVERS.append(made)
    return made


SERVERS: list[DraftServer] = []


@pytest.fixture(scope="module", autouse=True)
def servers_are_closed() -> Iterator[None]:
    yield
    server.cache_clear()
    while SERVERS:
        SERVERS.pop().close()


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def spec_of(role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {"block_size": 4, "memory_bytes": 4 << 20, "max_model_len": 96}
    settings |= {"max_batched_tokens": 40, "max_sequences": 20} | engine
    return make_spec(TARGET, role=role, worker_id=f"{role.value}-0", engine=EngineSpec(**settings))  # type: ignore[arg-type]


@cache
def expected(count: int, model: object = TARGET) -> list[list[int]]:
    return answers(Driver([replace(spec_of(), model=str(model))], TorchRunner), count, GREEDY)


def drafted(cell: Cell, *specs: WorkerSpec) -> Driver:
    """Workers of which the last one decodes and drafts."""
    runners = {spec.worker_id: TorchRunner(spec) for spec in specs}
    drafter = cell.drafter(specs[-1], runners[specs[-1].worker_id])
    return Driver(specs, lambda spec: runners[spec.worker_id], drafter)


def check_used(cell: Cell, engine: Engine) -> None:
    """Little is repeated in what a random model draws."""
    assert engine.stats.num_draft_tokens > 0 or cell == Cell("ngram", 1)
    assert engine.stats.num_accepted_tokens > 0 or cell.who == "ngram"


@each_cell_and_count
def test_alone_and_among_few_and_many_of_unlike_lengths(cell: Cell, count: int) -> None:
    driver = drafted(cell, spec_of())
    assert answers(driver, count, GREEDY) == expected(count)
    check_used(cell, driver.engines[0])


@pytest.mark.slow
@each_cell
def test_beside_prompts_that_come_later_in_pieces(cell: Cell) -> None:
    driver = drafted(cell, spec_of(max_batched_tokens=12))
    assert answers(driver, 4, GREEDY, later=3) == expected(4)
    check_used(cell, driver.engines[0])


@pytest.mark.slow
@each_cell
def test_where_sequences_are_preempted(cell: Cell) -> None:
    driver = drafted(cell, spec_of(memory_bytes=4 * 6 * 2 * 2 * 16 * 4 * 26))
    assert driver.engines[0].runner.num_blocks == 26
    assert answers(driver, 4, GREEDY) == expected(4)
    assert driver.engines[0].stats.num_preemptions > 0


@pytest.mark.slow
@each_cell
def test_behind_a_prefill_worker(cell: Cell) -> None:
    driver = drafted(cell, spec_of(Role.PREFILL), spec_of(Role.DECODE))
    assert answers(driver, 4, GREEDY) == expected(4)
    assert driver.engines[0].stats.num_draft_tokens == 0
    check_used(cell, driver.engines[1])


@pytest.mark.slow
def test_in_a_worker_of_two_ranks() -> None:
    processes, spec = RankProcesses(), spec_of()
    try:
        with processes.gang(spec, 2) as led:
            for cell in (*CELLS, *REMOTE):
                if cell.who == "self":  # which goes with one rank alone
                    continue
                driver = Driver([spec], lambda spec: led.runner, cell.drafter(spec, led.runner))
                assert answers(driver, 4, GREEDY) == expected(4), str(cell)
                check_used(cell, driver.engines[0])
    finally:
        processes.close()


@pytest.mark.slow
@each_cell
def test_for_a_model_with_linear_attention(cell: Cell) -> None:
    """Of whose drafts the first path is verified; the draft model knows nothing of it, so hardly any is right."""
    if cell.who == "self":
        pytest.skip("self-drafting is refused for models that keep states")
    spec = replace(spec_of(), model=str(HYBRID))
    for count in (1, 4, 16):
        driver = drafted(cell, spec)
        assert answers(driver, count, GREEDY) == expected(count, HYBRID)
        assert driver.engines[0].stats.num_draft_tokens > 0 or cell.who == "ngram"
