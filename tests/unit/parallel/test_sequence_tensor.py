"""Ranks that divide prompts, each of which is several that divide the model: the tokens of one rank."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.models import FAMILIES, HYBRIDS, tiny
from tests.unit.engine.driver import Driver
from tests.unit.model.driver import generate
from tests.unit.parallel.gangs import Led, RankProcesses
from tests.unit.parallel.test_handover_families import handing_over
from tests.unit.parallel.test_sequence_engine import check_death_in_a_step, gathered, shared
from tests.unit.parallel.test_sequence_handover import sent_by_each
from tests.unit.parallel.test_sequence_hybrid import ranks_of
from tests.unit.parallel.test_tensor import ask, check, one_thread, prompts
from tests.unit.parallel.test_tensor_hybrid import ask_twice, folder_of, spec_with_states
from workers.model.places import Degrees
from workers.model.runner import TorchRunner
from workers.parallel import shared_ranks

__all__ = ["one_thread"]  # a fixture for all tests here
DIVIDED = {"max_batched_tokens": 23, "sequence_parallel_over_tokens": 4}


def _cases() -> list[Any]:
    usual = {("llama", 2, 2), ("qwen3", 2, 2), ("qwen3_moe", 2, 2)}
    return [
        pytest.param(family, pieces, tensor, marks=() if (family, pieces, tensor) in usual else pytest.mark.slow)
        for family in FAMILIES
        for pieces, tensor in ((2, 2), (3, 2), (2, 4))
    ]


def _wait_for_counts(led: Led) -> None:
    """Until signs of life have told that all ranks have begun as many collectives."""
    count, deadline = led.gang._count, time.monotonic() + 10
    assert count is not None
    while (told := {number for number, _ in led.gang._counts.values()}) != {count()}:
        assert time.monotonic() < deadline, f"{told} on the others, {count()} on the leader"
        time.sleep(0.05)


@pytest.mark.parametrize(("family", "pieces", "tensor"), _cases())
def test_ranks_that_share_prompts_and_the_model_give_the_tokens_of_generate_and_the_facts_of_one_rank(
    ranks: RankProcesses, family: str, pieces: int, tensor: int
) -> None:
    mine, size = shared(family), pieces * tensor
    with ranks.gang(mine, size, sequence=True, tensor=tensor) as led:
        driver = Driver([mine], lambda _: led.runner)
        ask(driver)  # some below the threshold, some in several chunks, beside answers
        driver.run()
        check(driver, tiny(family))
        assert gathered(led.runner).num_gathers > 0
        alone = TorchRunner(mine)
        for fact in ("fingerprint", "num_blocks", "max_model_len", "vocab_size", "eos_token_ids"):
            assert getattr(led.runner, fact) == getattr(alone, fact), fact
        kv_heads = [shape.num_kv_heads for shape in led.runner.store.shapes]  # type: ignore[attr-defined]
        _wait_for_counts(led)
    assert kv_heads == [1] * 3
    assert led.said == [f"ended: {alone.num_blocks} blocks"] * (size - 1)


def test_ranks_that_do_not_share_memory_with_the_leader_compute_and_count_alike(
    ranks: RankProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two groups that the leader is in are joined over gloo, the other two in shared memory."""
    monkeypatch.setattr(shared_ranks, "_own_memory", lambda slot_bytes: None)
    mine = shared("llama")
    with ranks.gang(mine, 4, sequence=True, tensor=2) as led:
        driver = Driver([mine], lambda _: led.runner)
        ask(driver)
        driver.run()
        check(driver, tiny("llama"))
        _wait_for_counts(led)


def test_a_vocabulary_that_the_ranks_do_not_divide_reaches_the_leader_whole(ranks: RankProcesses) -> None:
    folder = tiny("llama", tie_word_embeddings=True, vocab_size=161)
    mine = shared("llama", folder=folder)
    with ranks.gang(mine, 4, sequence=True, tensor=2) as led:
        driver = Driver([mine], lambda _: led.runner)
        ask(driver)
        driver.run()
        check(driver, folder)


def test_preempted_sequences_and_prefix_hits_and_choices_are_as_on_one_rank(ranks: RankProcesses) -> None:
    block_nbytes = 4 * 3 * 2 * 2 * 16 * 4  # 4 tokens of 3 layers of keys and values of 2 heads of 16 floats
    tight = shared("qwen3", memory_bytes=14 * block_nbytes, max_model_len=None, max_batched_tokens=32)
    long = [prompts()[4][name : name + 9] for name in range(4)]
    cached = [*long[3][:6], 9, 9, 9, 7, 7, 7]  # up to a place inside a block
    wanted = [answer.tokens for answer in generate(tiny("qwen3"), long, 20)]
    wanted += [answer.tokens for answer in generate(tiny("qwen3"), [cached], 6)]
    with ranks.gang(tight, 4, sequence=True, tensor=2) as led:
        driver = Driver([tight], lambda _: led.runner)
        for name, prompt in enumerate(long):
            driver.submit(str(name), prompt, max_tokens=20)
        driver.run()
        driver.submit("4", cached, max_tokens=6)
        driver.run()
        assert [driver.answer(str(name)) for name in range(5)] == wanted
        assert driver.engines[0].stats.num_preemptions > 0
        assert driver.engines[0].stats.num_prefix_hit_tokens > 0


@pytest.mark.parametrize(
    ("pieces", "senders", "receivers"),
    [
        (2, 2, 1),
        pytest.param(2, 2, 2, marks=pytest.mark.slow),
        (2, 2, 4),  # KV heads fewer than ranks
        pytest.param(2, 4, 2, marks=pytest.mark.slow),
        pytest.param(3, 2, 1, marks=pytest.mark.slow),
        pytest.param(2, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_what_ranks_read_together_is_handed_over_by_heads(
    ranks: RankProcesses, other_ranks: RankProcesses, pieces: int, senders: int, receivers: int
) -> None:
    mine = shared("llama")
    with handing_over((ranks, other_ranks), mine, Degrees(senders, pieces), receivers) as driver:
        ask(driver)
        driver.run()
        check(driver, tiny("llama"))
        prefill, decode = driver.engines
        assert prefill.outbox is not None
        assert decode.inbox is not None
        copies = max(1, receivers // 2)  # of each of two KV heads
        token_nbytes = 3 * 2 * 2 * 16 * 4 * copies  # 3 layers of keys and values of 2 heads of 16 floats
        nbytes = sum(map(len, prompts())) * token_nbytes
        assert prefill.outbox.bytes_sent == decode.inbox.bytes_received == nbytes


def _hybrids(shapes: Sequence[tuple[int, int]], usual: tuple[int, int]) -> list[Any]:
    """Every family in each of `shapes`; of the second family usually one."""
    return [
        pytest.param(family, *shape, marks=() if (family, shape) == ("qwen3_5_text", usual) else pytest.mark.slow)
        for family in HYBRIDS
        for shape in shapes
    ]


@pytest.mark.parametrize(("family", "pieces", "tensor"), _hybrids([(2, 2), (3, 2), (2, 4)], (2, 2)))
def test_every_rank_has_the_states_of_its_heads_after_every_chunk(
    ranks: RankProcesses, family: str, pieces: int, tensor: int
) -> None:
    folder = folder_of(family)
    mine = spec_with_states(folder, **DIVIDED)
    with ranks.gang(mine, pieces * tensor, sequence=True, tensor=tensor) as led:
        driver = Driver([mine], lambda _: led.runner)
        ask_twice(driver, folder)
        assert ranks_of(led.runner).states.num_gathers > 0
        alone = TorchRunner(spec_with_states(folder))
        for fact in ("fingerprint", "num_blocks", "num_states", "state_spacing", "max_model_len"):
            assert getattr(led.runner, fact) == getattr(alone, fact), fact
        _wait_for_counts(led)
    assert led.said == [f"ended: {alone.num_blocks} blocks"] * (pieces * tensor - 1)


@pytest.mark.parametrize(("family", "senders", "receivers"), _hybrids([(2, 1), (2, 2), (2, 4), (4, 1)], (2, 1)))
def test_states_are_handed_over_by_heads(
    ranks: RankProcesses, other_ranks: RankProcesses, family: str, senders: int, receivers: int
) -> None:
    folder = folder_of(family)
    mine = spec_with_states(folder, **DIVIDED)
    with handing_over((ranks, other_ranks), mine, Degrees(senders, 2), receivers) as driver:
        ask_twice(driver, folder)
        sent = sent_by_each(driver)
        assert driver.engines[1].inbox is not None
        assert sum(sent) == driver.engines[1].inbox.bytes_received
        states = [shape.nbytes for shape in driver.engines[0].runner.store.shapes[::2]]  # type: ignore[attr-defined]
        assert sum(sent[:senders]) > 0
        assert sum(sent[senders:]) > sum(states) * senders, "the last piece's ranks did not send them"


@pytest.mark.parametrize(
    "victim", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_rank_that_dies_in_the_middle_of_a_step_fails_the_gang_within_five_seconds(
    ranks: RankProcesses, victim: int
) -> None:
    check_death_in_a_step(ranks, victim, tensor=2)
