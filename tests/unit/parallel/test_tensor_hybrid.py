"""Tensor parallelism of models with layers of linear attention: each rank keeps the states of its own heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.errors import ConfigError
from tests.models import HYBRIDS, tiny
from tests.unit.engine.driver import Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.model.test_hybrid_engine import FAMILY, run_short_of_blocks, spec_of
from tests.unit.model.test_hybrid_engine import check as check_engine
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import ask, check, check_dummies, expected, one_thread, spec
from workers.model.runner import TorchRunner
from workers.model.specs import LINEAR_FAMILIES
from workers.model.tensor_parallel.share import FAMILIES
from workers.spec import GangSpec, WorkerSpec

__all__ = ["one_thread"]  # a fixture for all tests here

FOUR_KEY_HEADS = {"linear_num_key_heads": 4, "linear_num_value_heads": 8}  # of two value heads each
ONE_GROUP = {"mamba_n_groups": 1}  # whose B and C all ranks hold, and over which all ranks' channels are normed


def folder_of(family: str, **fields: object) -> Path:
    """Of a model whose heads four ranks divide."""
    return tiny(family, **(FOUR_KEY_HEADS if "linear_num_key_heads" in HYBRIDS[family] else {}), **fields)


def spec_with_states(folder: Path, **engine: object) -> WorkerSpec:
    return spec(folder, **{"max_sequences": 8, "state_cache_spacing": 8, **engine})


def ask_twice(driver: Driver, folder: Path) -> None:
    """The second time from stored states."""
    for _ in range(2):
        ask(driver)
        driver.run()
        check(driver, folder)
        driver.tokens.clear(), driver.finals.clear(), driver.logprobs.clear()
    assert driver.engines[0].stats.num_prefix_hit_tokens >= 2 * 8


def _cases() -> list[Any]:
    usual = {
        (FAMILY, 2),
        ("qwen3_5_text", 4),
        ("minimax", 4),
        ("bamba", 4),
        ("kimi_linear", 2),
        ("granitemoehybrid", 2),
    }
    return [
        pytest.param(family, size, marks=() if (family, size) in usual else pytest.mark.slow)
        for family in HYBRIDS
        for size in (2, 4)
    ]


@pytest.mark.parametrize(("family", "size"), _cases())
def test_a_gang_gives_the_tokens_of_generate_and_the_facts_of_one_rank(
    ranks: RankProcesses, family: str, size: int
) -> None:
    folder = folder_of(family, **(ONE_GROUP if family == "granitemoehybrid" else {}))
    with ranks.gang(spec_with_states(folder), size) as led:
        driver = Driver([spec_with_states(folder)], lambda _: led.runner)
        ask_twice(driver, folder)
        alone = TorchRunner(spec_with_states(folder))
        for fact in ("fingerprint", "num_blocks", "num_states", "state_spacing", "max_model_len"):
            assert getattr(led.runner, fact) == getattr(alone, fact), fact
        mine, whole = led.runner.store.states[0][0], alone.store.states[0][0]  # type: ignore[attr-defined]
    assert mine.shape == (alone.num_states, whole.shape[1] // size, *whole.shape[2:])
    assert led.said == [f"ended: {alone.num_blocks} blocks"] * (size - 1)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "family", [name if name == "qwen3_5_text" else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
)
def test_drafts_are_taken_out_of_every_ranks_states(ranks: RankProcesses, family: str, size: int) -> None:
    folder = folder_of(family)
    answers = {(str(index), 0): want.tokens for index, want in enumerate(expected(folder))}
    mine = spec_with_states(folder, max_batched_tokens=24)
    with ranks.gang(mine, size) as led:
        driver = Driver([mine], lambda _: led.runner, Oracle(answers, vocab_size=160))
        ask_twice(driver, folder)
        stats = driver.engines[0].stats
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    assert len(led.said) == size - 1


def test_sequences_that_lose_their_blocks_are_read_again(ranks: RankProcesses) -> None:
    mine = spec_of(tiny(FAMILY))
    with ranks.gang(mine, 2) as led:
        driver = Driver([mine], lambda _: led.runner)
        run_short_of_blocks(driver)
        check_engine(driver, FAMILY)


@pytest.mark.parametrize(
    "family", [name if name in ("minimax", FAMILY) else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
)
def test_dummy_weights_are_the_same_at_every_degree(ranks: RankProcesses, family: str) -> None:
    check_dummies(ranks, replace(spec_with_states(folder_of(family)), load_format="dummy", seed=5))


def test_all_hybrids_are_divided() -> None:
    assert LINEAR_FAMILIES <= FAMILIES


@pytest.mark.parametrize(
    ("family", "fields", "size", "words"),
    [
        (
            "qwen3_5_text",
            {},
            4,
            r"4 does not divide the linear_num_key_heads 2 of the 'qwen3_5_text' model; set one of 1, 2$",
        ),
        ("kimi_linear", {"linear_num_heads": 2}, 4, r"4 does not divide the linear_num_heads 2 .* set one of 1, 2$"),
        (
            "bamba",
            {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 8, "num_attention_heads": 12},
            3,
            r"3 does not divide the 2 KV heads \(nor they it\) and the mamba_n_groups 8 \(nor they it\) and the mamba",
        ),
        ("granitemoehybrid", {"shared_intermediate_size": 66}, 4, "4 does not divide the shared_intermediate_size 66"),
    ],
)
def test_a_degree_that_does_not_divide_is_refused_with_those_that_do(
    family: str, fields: dict[str, object], size: int, words: str
) -> None:
    folder = tiny(family, **fields)
    with pytest.raises(ConfigError, match=f"tensor_parallel: {words}"):
        TorchRunner(replace(spec(folder), gang=GangSpec(tensor_parallel=size)))
