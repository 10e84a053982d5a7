"""One suite for all drafters: what they propose and forget, and that no answer changes with them, wherever it is made.

The engine verifies all that is proposed here, so that what a drafter does wrong with its own state is seen.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import pytest

from tests.draft_server import DraftServer, Following, waiting_drafter
from tests.models import near, silenced, tiny
from tests.unit.engine.driver import OPEN, Driver, speculating
from tests.unit.model.driver import make_spec, prompts_of
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.speculative.test_draft_model import sequence
from workers.engine.drafting import Drafter
from workers.engine.engine import Engine
from workers.engine.sequence import Sequence
from workers.model.contract import ModelRunner
from workers.model.layer_subset import LayerSubset
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.draft_model import ModelDrafter
from workers.speculative.draft_runner import load_draft_runner
from workers.speculative.layer_choice import Level
from workers.speculative.ngram import NgramDrafter
from workers.speculative.recycling import RecyclingDrafter, Successors
from workers.speculative.self_drafting import SelfDrafter

TARGET = silenced(tiny("llama", num_hidden_layers=5), [1, 3], 0.1)
DRAFT = near(TARGET, 0.12)
NUM_OUTPUTS = 24
SAMPLINGS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.3, "logit_bias": {7: 1.5}, "min_tokens": 5},
}


@dataclass(frozen=True)
class Kind:
    """Attributes:
    make: For a worker that decodes, before its engine is made.
    num_held: Of how many sequences something is remembered.
    """

    make: Callable[[WorkerSpec, ModelRunner], Drafter]
    num_held: Callable[[Drafter], int]


def model_drafter(spec: WorkerSpec, runner: ModelRunner) -> Drafter:
    return ModelDrafter(load_draft_runner(replace(spec, draft_model=str(DRAFT)), runner), kind=4)


def self_drafter(spec: WorkerSpec, runner: ModelRunner) -> Drafter:
    assert isinstance(runner, TorchRunner)
    level = Level(frozenset({1, 3}), 0.8, 0.6)
    return SelfDrafter(LayerSubset(runner), [level], kind=4)


@cache
def server() -> DraftServer:
    return DraftServer(make_spec(DRAFT, role=Role.DRAFT, worker_id="draft-0", engine=spec_of().engine))


@pytest.fixture(scope="module", autouse=True)
def server_is_closed() -> Iterator[None]:
    yield
    if server.cache_info().currsize:
        server().close()


def remote_drafter(spec: WorkerSpec, runner: ModelRunner) -> Drafter:
    return Following(waiting_drafter(spec, runner.vocab_size), server().route)


KINDS = {
    "ngram": Kind(lambda spec, runner: NgramDrafter(), lambda drafter: len(drafter._texts)),  # type: ignore[attr-defined]
    "trees": Kind(
        lambda spec, runner: RecyclingDrafter(NgramDrafter(4), Successors(runner.vocab_size), width=4),
        lambda drafter: len(drafter.copies._texts),  # type: ignore[attr-defined]
    ),
    "self": Kind(self_drafter, lambda drafter: len(drafter)),  # type: ignore[arg-type]
    "draft": Kind(model_drafter, lambda drafter: len(drafter.blocks)),  # type: ignore[attr-defined]
    "remote": Kind(remote_drafter, lambda drafter: len(drafter)),  # type: ignore[arg-type]
}
each_kind = pytest.mark.parametrize("name", KINDS)
each_sampling = pytest.mark.parametrize("sampling", SAMPLINGS)


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def spec_of(role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {"block_size": 4, "memory_bytes": 4 << 20, "max_model_len": 96} | engine
    settings = {"max_batched_tokens": 40, "max_sequences": 20} | settings
    return make_spec(TARGET, role=role, worker_id=f"{role.value}-0", engine=EngineSpec(**settings))  # type: ignore[arg-type]


def prompts(count: int) -> list[list[int]]:
    """Of odd lengths, with parts that come again."""
    rng = random.Random(4)
    made = prompts_of(rng, [1 + 7 * number % 29 for number in range(count)], 160)
    return [[*prompt, *prompt[-5:], *prompt[:6]] for prompt in made]


def answers(driver: Driver, count: int, sampling: str, *, later: int = 0) -> list[list[int]]:
    """Args: later: So many of the prompts come while others are being answered."""
    for number, prompt in enumerate(prompts(count)):
        if number >= count - later:
            for _ in range(3):
                driver.step()
        driver.submit(str(number), prompt, max_tokens=NUM_OUTPUTS, **SAMPLINGS[sampling])
    driver.run(20_000)
    return [driver.answer(str(number)) for number in range(count)]


@cache
def expected(count: int, sampling: str) -> list[list[int]]:
    return answers(Driver([spec_of()], TorchRunner), count, sampling)


def drafted(name: str, *specs: WorkerSpec) -> Driver:
    """Workers of which the last one decodes and drafts."""
    runners = {spec.worker_id: TorchRunner(spec) for spec in specs}
    drafter = KINDS[name].make(specs[-1], runners[specs[-1].worker_id])
    return Driver(specs, lambda spec: runners[spec.worker_id], drafter)


def was_used(name: str, engine: Engine) -> bool:
    """Little is repeated in what a random model draws."""
    return name == "ngram" or 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens


@each_kind
@each_sampling
@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow), 16])
def test_answers_are_those_without(name: str, sampling: str, count: int) -> None:
    driver = drafted(name, spec_of())
    assert answers(driver, count, sampling) == expected(count, sampling)
    assert was_used(name, driver.engines[0])


@each_kind
@each_sampling
def test_beside_prompts_that_come_later_in_pieces(name: str, sampling: str) -> None:
    driver = drafted(name, spec_of(max_batched_tokens=12))
    assert answers(driver, 4, sampling, later=3) == expected(4, sampling)


@each_kind
def test_where_sequences_are_preempted(name: str) -> None:
    driver = drafted(name, spec_of(memory_bytes=4 * 5 * 2 * 2 * 16 * 4 * 26))
    assert driver.engines[0].runner.num_blocks == 26
    assert answers(driver, 4, "sampled") == expected(4, "sampled")
    assert driver.engines[0].stats.num_preemptions > 0


@each_kind
@each_sampling
def test_behind_a_prefill_worker(name: str, sampling: str) -> None:
    driver = drafted(name, spec_of(Role.PREFILL), spec_of(Role.DECODE))
    assert answers(driver, 4, sampling) == expected(4, sampling)
    assert driver.engines[0].stats.num_draft_tokens == 0
    assert was_used(name, driver.engines[1])


@pytest.mark.slow
def test_in_a_worker_of_two_ranks() -> None:
    processes = RankProcesses()
    spec = spec_of()
    try:
        with processes.gang(spec, 2) as led:
            for name in KINDS.keys() - {"self"}:  # which goes with one rank alone
                drafter = KINDS[name].make(spec, led.runner)
                driver = Driver([spec], lambda spec: led.runner, drafter)
                assert answers(driver, 4, "sampled") == expected(4, "sampled"), name
                assert was_used(name, driver.engines[0])
    finally:
        processes.close()


@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("method", ["ngram", "draft", "auto", "self"])
def test_as_a_worker_is_told_to_by_its_spec(method: str, width: int) -> None:
    """With what pays by the clock: some steps draft, some do not."""
    spec = replace(
        spec_of(), speculation=SpeculationSpec(method=method, max_tokens=4, tree_width=width), draft_model=str(DRAFT)
    )
    driver = Driver([spec], TorchRunner)
    engine = driver.engines[0]
    engine._clock = time.perf_counter
    engine._speculation = choose_speculation(spec, engine.runner)
    for _ in range(3):  # what steps take is learnt meanwhile
        assert answers(driver, 4, "sampled") == expected(4, "sampled")
        driver.tokens.clear()
        driver.finals.clear()
    assert engine.stats.num_draft_tokens > 0 or method == "ngram"


@each_kind
def test_some_sequences_may_end_or_be_aborted_while_others_go_on(name: str) -> None:
    driver = drafted(name, spec_of())
    for number, prompt in enumerate(prompts(4)):
        driver.submit(str(number), prompt, max_tokens=5 if number == 1 else NUM_OUTPUTS, temperature=0.0)
    for _ in range(8):
        driver.step()
    driver.abort("2")
    driver.run(20_000)
    for number in (0, 3):
        assert driver.answer(str(number)) == expected(4, "greedy")[number]
    assert driver.answer("1") == expected(4, "greedy")[1][:5]


@each_kind
def test_a_draft_for_each_no_longer_than_asked_and_nothing_kept_of_others(name: str) -> None:
    """In any order, with attempts that begin anew elsewhere in the text."""
    spec = spec_of()
    drafter = KINDS[name].make(spec, TorchRunner(spec))
    rng = random.Random(1)
    seqs = [started(str(number), prompt) for number, prompt in enumerate(prompts(6))]
    for turn in range(12):
        chosen, depth = rng.sample(seqs, rng.randint(0, 6)), rng.randint(1, 6)
        drafts = drafter.propose(chosen, depth)
        assert len(drafts) == len(chosen)
        for seq, draft in zip(chosen, drafts, strict=True):
            assert max(draft.depths, default=0) <= depth
            seq.output_token_ids += [*list(draft.token_ids)[: rng.randint(0, depth)], rng.randrange(2, 160)]
        assert KINDS[name].num_held(drafter) <= len(chosen)
        again = rng.choice(seqs)
        again.attempt, again.output_token_ids = turn + 1, again.output_token_ids[:1]
    drafter.propose([], 1)
    assert KINDS[name].num_held(drafter) == 0


def started(request_id: str, prompt: list[int]) -> Sequence:
    """Read, with one token of its answer."""
    seq = sequence(request_id, prompt)
    seq.output_token_ids[:] = [5]
    seq.num_computed_tokens = len(prompt)
    return seq


def test_what_is_proposed_here_is_verified_here() -> None:
    """The suite would be blind if nothing were."""
    runner = TorchRunner(spec_of())
    speculation = speculating(NgramDrafter(), runner)
    assert speculation is not None
    seq = started("a", [2, 3, 4, 2, 3, 4, 2, 3, 4, 2])
    seq.output_token_ids[:] = [3]
    assert speculation.drafts([seq], 1)["a", 0].token_ids == [4, 2, 3, 4, 2, 3]
