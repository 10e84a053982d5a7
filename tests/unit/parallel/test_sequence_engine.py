"""Prompts read by several ranks together in the real engine: whatever their number, the tokens of one rank."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from baton.errors import BatonError
from tests.models import FAMILIES, tiny
from tests.unit.engine.driver import Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.model.driver import generate, prompts_of
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import ask, check, expected, one_thread, prompts, spec
from workers.model.contract import Batch, Chunk
from workers.model.runner import TorchRunner
from workers.parallel.gathering import Traffic
from workers.spec import WorkerSpec

__all__ = ["one_thread"]  # a fixture for all tests here


def shared(family: str, folder: Path | None = None, **engine: object) -> WorkerSpec:
    settings = {"max_batched_tokens": 23, "sequence_parallel_over_tokens": 4, **engine}
    return spec(folder or tiny(family), **settings)


def gathered(runner: Any) -> Traffic:
    """By the leader, of keys and values."""
    keys: Traffic = runner._runner.sequence.keys
    return keys


def _cases() -> list[Any]:
    usual = {("gemma2", 3), ("gpt_oss", 4)}
    return [
        pytest.param(family, size, marks=() if size == 2 or (family, size) in usual else pytest.mark.slow)
        for family in FAMILIES
        for size in (2, 3, 4)
    ]


@pytest.mark.parametrize(("family", "size"), _cases())
def test_ranks_that_share_prompts_give_the_tokens_of_generate_and_the_facts_of_one_rank(
    ranks: RankProcesses, family: str, size: int
) -> None:
    mine = shared(family)
    with ranks.gang(mine, size, sequence=True) as led:
        driver = Driver([mine], lambda _: led.runner)
        ask(driver)
        driver.run()
        check(driver, tiny(family))
        assert gathered(led.runner).num_gathers > 0
        alone = TorchRunner(mine)
        for fact in ("fingerprint", "num_blocks", "max_model_len", "vocab_size", "eos_token_ids", "kv_shares"):
            assert getattr(led.runner, fact) == getattr(alone, fact), fact
    assert led.said == [f"ended: {alone.num_blocks} blocks"] * (size - 1)


def test_a_prompt_is_read_in_chunks_of_any_length_beside_answers_and_short_prompts(ranks: RankProcesses) -> None:
    """The budget changes what of a prompt comes together; the threshold, which of it is cut."""
    folder = tiny("gemma3_text")
    odd = prompts_of(random.Random(9), (61, 3, 33, 9, 19), 160)
    wanted = [answer.tokens for answer in generate(folder, odd, 6)]
    for size, budget, over_tokens in ((2, 7, 2), (3, 11, 4), (4, 5, 2), (4, 40, 20)):
        mine = shared("gemma3_text", max_batched_tokens=budget, sequence_parallel_over_tokens=over_tokens)
        with ranks.gang(mine, size, sequence=True) as led:
            driver = Driver([mine], lambda _, led=led: led.runner)  # type: ignore[misc]
            for index, prompt in enumerate(odd):
                driver.submit(str(index), prompt, max_tokens=6)
                driver.step()
            driver.run()
            assert [driver.answer(str(index)) for index in range(len(odd))] == wanted, f"{size} ranks"


def test_preempted_sequences_and_prefix_hits_and_choices_are_as_on_one_rank(ranks: RankProcesses) -> None:
    block_nbytes = 4 * 3 * 2 * 2 * 16 * 4  # 4 tokens of 3 layers of keys and values of 2 heads of 16 floats
    tight = shared("qwen3", memory_bytes=14 * block_nbytes, max_model_len=None, max_batched_tokens=32)

    def answers(driver: Driver) -> list[list[int]]:
        for name in range(4):
            driver.submit(str(name), prompts()[4][name : name + 9], max_tokens=20)
        driver.run()
        driver.submit("c", [*prompts()[4][:6], 9, 9, 9, 7, 7, 7], max_tokens=6)  # cached up to a place inside a block
        driver.submit("n", prompts()[4][3:9], choices=3, max_tokens=6, temperature=1.0, seed=7)
        driver.run()
        names = [("0", 0), ("1", 0), ("2", 0), ("3", 0), ("c", 0), ("n", 0), ("n", 1), ("n", 2)]
        return [driver.answer(name, choice) for name, choice in names]

    wanted = answers(Driver([spec(tiny("qwen3"))], TorchRunner))
    with ranks.gang(tight, 2, sequence=True) as led:
        driver = Driver([tight], lambda _: led.runner)
        assert answers(driver) == wanted
        assert driver.engines[0].stats.num_preemptions > 0
        assert driver.engines[0].stats.num_prefix_hit_tokens > 0


def test_trees_of_drafts_beside_prompts_that_are_cut(ranks: RankProcesses) -> None:
    folder = tiny("gemma3_text")
    mine = shared("gemma3_text", max_batched_tokens=48)
    answers = {(str(index), 0): want.tokens for index, want in enumerate(expected(folder))}
    with ranks.gang(mine, 2, sequence=True) as led:
        driver = Driver([mine], lambda _: led.runner, Oracle(answers, vocab_size=160, right=0.95, width=4))
        ask(driver)
        driver.run()
        check(driver, folder)
        assert gathered(led.runner).num_gathers > 0
        assert driver.engines[0].stats.num_accepted_tokens > 0


def test_what_is_gathered_is_the_keys_and_values_of_cut_chunks_alone(ranks: RankProcesses) -> None:
    mine = shared("llama", max_batched_tokens=64, sequence_parallel_over_tokens=20)
    with ranks.gang(mine, 2, sequence=True) as led:
        driver = Driver([mine], lambda _: led.runner)
        driver.submit("short", prompts()[4], max_tokens=2)
        driver.run()
        assert gathered(led.runner).num_gathers == 0
        driver.submit("long", prompts()[5], max_tokens=2)
        driver.run()
        token_nbytes = 3 * 2 * 2 * 16 * 4  # 3 layers of keys and values of 2 heads of 16 floats
        longest = 22  # of two pieces, to which both are padded: earlier tokens cost less
        assert gathered(led.runner) == Traffic(num_gathers=3, num_bytes=2 * longest * token_nbytes)
        assert driver.answer("long") == expected(tiny("llama"))[5].tokens[:2]


@pytest.mark.parametrize("victim", [1, 2])
def test_a_rank_that_dies_in_the_middle_of_a_step_fails_the_gang_within_five_seconds(
    ranks: RankProcesses, victim: int
) -> None:
    check_death_in_a_step(ranks, victim, tensor=1)


def check_death_in_a_step(ranks: RankProcesses, victim: int, *, tensor: int) -> None:
    """Of a follower of four ranks that read prompts together, `tensor` to a piece."""
    chunk = Chunk(token_ids=list(range(3, 15)), start=0, block_ids=[0, 1, 2], num_sequence_tokens=12)
    with ranks.gang(shared("llama"), 4, sequence=True, tensor=tensor) as led:

        def kill(layer: int) -> None:
            led.processes[victim].kill()
            led.processes[victim].wait()

        def run_on() -> None:
            while True:  # a rank that was ahead of the others may have told all of the first step
                led.runner.run(Batch(chunks=[chunk], samples=[]), kill)

        begin = time.monotonic()
        with pytest.raises((BatonError, RuntimeError)):
            run_on()
        assert led.failed.wait(5)
        assert time.monotonic() - begin < 5
    assert f"rank {victim + 1} of the gang is gone" in led.failures[0].message
    assert [said.partition(":")[0] for said in led.said] == ["" if n == victim else "lost" for n in range(3)]
