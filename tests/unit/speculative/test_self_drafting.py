"""The target drafts for itself: which layers it can do without is found, and given up where it does not pay."""

import itertools
from dataclasses import replace

import pytest

from baton.errors import ConfigError
from tests.models import silenced, tiny
from tests.unit.engine.driver import make_spec as fake_spec
from tests.unit.model.driver import make_spec
from tests.unit.speculative.test_draft_model import sequence
from workers.model.contract import Chunk, ModelRunner, Row
from workers.model.fake import FakeRunner
from workers.model.layer_subset import LayerSubset
from workers.model.runner import TorchRunner
from workers.spec import GangSpec, SpeculationSpec, WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.layer_choice import Level, choose_levels, gain
from workers.speculative.self_drafting import SelfDrafter

TARGET = tiny("llama", num_hidden_layers=6)


def runner_of(*layers: int) -> TorchRunner:
    return TorchRunner(make_spec(silenced(TARGET, layers)))


def test_layers_that_add_nothing_are_found() -> None:
    for native in (True, False):
        runner = TorchRunner(make_spec(silenced(TARGET, [2, 4])), native=native)
        clock = itertools.count()
        levels = choose_levels(LayerSubset(runner), limit_s=1e9, clock=lambda clock=clock: float(next(clock)))  # type: ignore[misc]
        assert {1: {2}, 2: {2, 4}}.items() <= {len(level.skipped): level.skipped for level in levels}.items()
        agreements = [level.agreement for level in levels]
        assert agreements[:2] == [1.0, 1.0] > agreements[-1:]


def test_within_the_time_that_there_is() -> None:
    clock = itertools.count()
    assert len(choose_levels(LayerSubset(runner_of(4)), limit_s=1.0, clock=lambda: float(next(clock)))) == 1


def test_what_a_level_is_worth() -> None:
    assert gain(0.0, 0.5) == 1.0
    assert gain(0.5, 1.0) == 1.0
    assert gain(1.0, 0.5) == pytest.approx(9 / 5)
    assert gain(0.8, 0.1) > gain(0.8, 0.3) > gain(0.6, 0.3)


def test_the_whole_model_is_there_again_whatever_happens() -> None:
    runner = runner_of()
    subset = LayerSubset(runner)
    whole = runner.model.base_model.layers
    chunk = Chunk(token_ids=[160], start=0, block_ids=[0], num_sequence_tokens=1)
    with pytest.raises(IndexError):
        subset.compute([chunk], [Row(0, 0)], (1,))
    assert runner.model.base_model.layers is whole


def test_a_draft_reaches_as_far_as_the_sequence_holds_blocks() -> None:
    drafter = SelfDrafter(LayerSubset(runner_of(2, 3)), [Level(frozenset({2, 3}), 1.0, 0.5)])
    seq = sequence("a", [5, 6, 7, 8])
    seq.output_token_ids[:] = [9]
    for num_blocks, length in ((1, 0), (2, 4), (3, 6)):
        seq.block_ids = list(range(num_blocks))
        assert len(drafter.propose([seq], 6)[0].token_ids) == length


def test_fewer_layers_are_skipped_where_drafts_prove_wrong() -> None:
    levels = [Level(frozenset({2}), 0.8, 0.8), Level(frozenset({2, 3, 4}), 0.9, 0.4)]
    drafter = SelfDrafter(LayerSubset(runner_of()), levels)
    seq = sequence("a", [5, 6, 7, 8])
    seq.output_token_ids[:] = [9]
    seq.block_ids = list(range(20))
    assert drafter.level == 1
    for _ in range(50):
        (draft,) = drafter.propose([seq], 1)
        seq.output_token_ids.append((draft.token_ids[0] + 1) % 160 if draft.token_ids else 3)
    assert drafter.level == 0


def refused(spec: WorkerSpec, runner: ModelRunner) -> str:
    with pytest.raises(ConfigError) as error:
        choose_speculation(replace(spec, speculation=SpeculationSpec(method="self")), runner)
    return error.value.message


def test_what_cannot_draft_for_itself_is_refused() -> None:
    assert "load_format: fake has none; set auto" in refused(fake_spec(), FakeRunner(fake_spec()))
    spec = make_spec(TARGET)
    assert "workers of 2 ranks; give" in refused(replace(spec, gang=GangSpec(tensor_parallel=2)), runner_of())
    small = make_spec(tiny("llama", num_hidden_layers=2))
    assert "more layers than 2; set auto or ngram" in refused(small, TorchRunner(small))


def test_a_worker_that_drafts_for_itself() -> None:
    spec = replace(make_spec(TARGET), speculation=SpeculationSpec(method="self"))
    assert choose_speculation(spec, runner_of(1, 2)) is not None
