"""Tensor parallelism: whatever the degree, tokens, logprobs and what others rely on are those of one rank."""

import functools
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baton.errors import BatonError, ConfigError
from tests.models import FAMILIES, tiny
from tests.unit.engine.driver import Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.model.driver import Expected, generate, make_spec, prompts_of
from tests.unit.parallel.gangs import RankProcesses
from workers.model.contract import Batch, Chunk
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, GangSpec, WorkerSpec

NUM_OUTPUTS = 8
LENGTHS = (1, 2, 4, 5, 17, 40)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def prompts() -> list[list[int]]:
    return prompts_of(random.Random(5), LENGTHS, 160)


@functools.cache
def expected(folder: Path) -> list[Expected]:
    return generate(folder, prompts(), NUM_OUTPUTS)


def spec(folder: Path, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {
        "block_size": 4,
        "memory_bytes": 4 << 20,
        "max_model_len": 96,
        "max_batched_tokens": 7,
    }
    return replace(make_spec(folder), engine=EngineSpec(**{**settings, **engine}))  # type: ignore[arg-type]


def ask(driver: Driver) -> None:
    for index, prompt in enumerate(prompts()):
        driver.submit(str(index), prompt, max_tokens=NUM_OUTPUTS, logprobs=0)


def check(driver: Driver, folder: Path) -> None:
    for index, want in enumerate(expected(folder)):
        assert driver.answer(str(index)) == want.tokens, f"prompt {index}"
        logprobs = [driver.logprobs[str(index), 0][position] for position in range(NUM_OUTPUTS)]
        assert logprobs == pytest.approx(want.logprobs, abs=1e-4)


def _cases() -> list[Any]:
    usual = {("qwen3_moe", 4), ("gemma3_text", 4)}
    return [
        pytest.param(family, size, marks=() if size == 2 or (family, size) in usual else pytest.mark.slow)
        for family in FAMILIES
        for size in (2, 4)
    ]


@pytest.mark.parametrize(("family", "size"), _cases())
def test_a_gang_gives_the_tokens_of_generate_and_the_facts_of_one_rank(
    ranks: RankProcesses, family: str, size: int
) -> None:
    folder = tiny(family)
    with ranks.gang(spec(folder), size) as led:
        driver = Driver([spec(folder)], lambda _: led.runner)
        ask(driver)
        driver.run()
        check(driver, folder)
        alone = TorchRunner(spec(folder))
        for fact in ("fingerprint", "num_blocks", "max_model_len", "vocab_size", "eos_token_ids"):
            assert getattr(led.runner, fact) == getattr(alone, fact), fact
        kv_heads = [shape.num_kv_heads for shape in led.runner.store.shapes]  # type: ignore[attr-defined]
    assert kv_heads == [1] * 3, "of two KV heads each rank holds one, also where there are four ranks"
    assert led.said == [f"ended: {alone.num_blocks} blocks"] * (size - 1)


def test_three_ranks_divide_nine_heads_and_a_vocabulary_that_three_does_not_divide(ranks: RankProcesses) -> None:
    nine = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8, "hidden_size": 72}
    folder = tiny("llama", tie_word_embeddings=True, **nine)
    with ranks.gang(spec(folder), 3) as led:
        driver = Driver([spec(folder)], lambda _: led.runner)
        ask(driver)
        driver.run()
        check(driver, folder)


def test_preempted_sequences_and_prefix_hits_and_choices_are_as_on_one_rank(ranks: RankProcesses) -> None:
    folder = tiny("qwen3")
    block_nbytes = 4 * 3 * 2 * 2 * 16 * 4  # 4 tokens of 3 layers of keys and values of 2 heads of 16 floats
    tight = spec(folder, memory_bytes=14 * block_nbytes, max_model_len=None, max_batched_tokens=32)

    def answers(driver: Driver) -> list[list[int]]:
        for name in range(4):
            driver.submit(str(name), prompts()[4][name : name + 5], max_tokens=20)
        driver.run()
        driver.submit("n", prompts()[4][3:8], choices=3, max_tokens=6, temperature=1.0, seed=7)
        driver.run()
        return [driver.answer(str(name)) for name in range(4)] + [driver.answer("n", choice) for choice in range(3)]

    wanted = answers(Driver([spec(folder)], TorchRunner))
    with ranks.gang(tight, 2) as led:
        driver = Driver([tight], lambda _: led.runner)
        assert answers(driver) == wanted
        assert driver.engines[0].stats.num_preemptions > 0
        assert driver.engines[0].stats.num_prefix_hit_tokens > 0


def test_dummy_weights_are_the_same_at_every_degree(ranks: RankProcesses) -> None:
    check_dummies(ranks, replace(spec(tiny("gpt_oss")), load_format="dummy", seed=5))


def check_dummies(ranks: RankProcesses, dummy: WorkerSpec) -> None:
    """Two ranks have the weights of one."""
    alone = Driver([dummy], TorchRunner)
    ask(alone)
    alone.run()
    with ranks.gang(dummy, 2) as led:
        driver = Driver([dummy], lambda _: led.runner)
        ask(driver)
        driver.run()
        assert led.runner.fingerprint == alone.engines[0].runner.fingerprint
    assert [driver.answer(str(n)) for n in range(len(LENGTHS))] == [alone.answer(str(n)) for n in range(len(LENGTHS))]


@pytest.mark.parametrize(
    ("family", "size", "words"),
    [
        (
            "llama",
            3,
            r"tensor_parallel: 3 does not divide the 4 attention heads and the 2 KV heads .* set one of 1, 2, 4",
        ),
        ("qwen3_moe", 32, "does not divide the 4 attention heads"),
    ],
)
def test_a_degree_that_does_not_divide_is_refused_by_name(family: str, size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TorchRunner(replace(spec(tiny(family)), gang=GangSpec(tensor_parallel=size)))


def test_a_width_that_the_degree_does_not_divide_is_refused_by_name() -> None:
    folder = tiny("llama", intermediate_size=97)
    with pytest.raises(ConfigError, match="tensor_parallel: 2 does not divide the intermediate_size 97 of the 'llama'"):
        TorchRunner(replace(spec(folder), gang=GangSpec(tensor_parallel=2)))


def test_a_rank_that_dies_in_the_middle_of_a_step_fails_the_gang_within_five_seconds(ranks: RankProcesses) -> None:
    chunk = Chunk(token_ids=[3, 4, 5], start=0, block_ids=[0], num_sequence_tokens=3)
    with ranks.gang(spec(tiny("llama")), 4) as led:

        def kill(layer: int) -> None:
            led.processes[1].kill()
            led.processes[1].wait()

        begin = time.monotonic()
        with pytest.raises((BatonError, RuntimeError)):
            led.runner.run(Batch(chunks=[chunk], samples=[]), kill)
        assert led.failed.wait(5)
        assert time.monotonic() - begin < 5
    assert "rank 2 of the gang is gone" in led.failures[0].message
    assert [said.partition(":")[0] for said in led.said] == ["lost", "", "lost"]


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_trees_of_drafts_are_the_same_on_every_rank(ranks: RankProcesses, family: str) -> None:
    folder = tiny(family)
    wide = spec(folder, max_batched_tokens=48)
    answers = {(str(index), 0): want.tokens for index, want in enumerate(expected(folder))}
    with ranks.gang(wide, 2) as led:
        driver = Driver([wide], lambda _: led.runner, Oracle(answers, vocab_size=160, right=0.95, width=4))
        ask(driver)
        driver.run()
        check(driver, folder)
        assert driver.engines[0].stats.num_accepted_tokens > 0
