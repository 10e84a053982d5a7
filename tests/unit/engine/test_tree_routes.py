"""Trees of drafts on real models: greedy tokens and logprobs are those of transformers' generate, sampled ones those
without drafts."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.models import tiny
from tests.unit.engine.driver import OPEN
from tests.unit.engine.oracle import Oracle
from tests.unit.engine.test_routes import EVERYTHING, LENGTHS, ask, check, expected, mixed, pair, prompts
from workers.spec import SpeculationSpec
from workers.speculative.choose import choose_speculation

VOCAB_SIZE = 160


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.mark.parametrize(
    ("family", "width"),
    [("llama", 4), pytest.param("llama", 8, marks=pytest.mark.slow), ("gemma3_text", 3), ("gpt_oss", 3)],
)
def test_disaggregated_and_co_located_among_chunks_of_prompts(family: str, width: int) -> None:
    folder = tiny(family)
    answers = {(str(index), 0): want.tokens for index, want in enumerate(expected(folder))}
    for make in (mixed, pair):
        oracle = Oracle(answers, vocab_size=VOCAB_SIZE, num_drafts=5, right=0.95, width=width)
        driver = make(folder, oracle, max_batched_tokens=48)
        ask(driver)
        driver.run()
        check(driver, folder)
        stats = driver.engines[-1].stats
        assert stats.num_draft_tokens > 1.5 * stats.num_accepted_tokens > 0


@pytest.mark.parametrize(("count", "memory"), [(1, 4 << 20), (16, 4 << 20), (24, 24 * 4 * 3 * 2 * 2 * 16 * 4)])
def test_one_alone_and_many_also_where_some_are_preempted(count: int, memory: int) -> None:
    folder = tiny("llama")
    names = [f"{turn}{index}" for turn in "abc" for index in range(len(LENGTHS))][:count]
    known = {(name, 0): expected(folder)[int(name[1:])].tokens for name in names}
    oracle = Oracle(known, vocab_size=VOCAB_SIZE, right=0.95, width=4)
    driver = mixed(folder, oracle, memory_bytes=memory, max_batched_tokens=32)
    for name in names:
        driver.submit(name, prompts()[int(name[1:])], max_tokens=10)
    driver.run()
    for name, tokens in known.items():
        assert driver.answer(*name) == tokens
    assert driver.engines[0].stats.num_accepted_tokens > 0
    assert (driver.engines[0].stats.num_preemptions > 0) == (memory < 4 << 20)


def test_penalties_seeds_biases_and_logprobs_are_those_of_the_way_taken() -> None:
    folder = tiny("llama")
    settings = {**EVERYTHING, "stop_token_ids": [5, 9, 30, 77]}
    known: dict[tuple[str, int], list[int]] = {}
    oracles = [Oracle(known, vocab_size=VOCAB_SIZE, right=0.95, width=width) for width in (1, 4, 8)]
    drafted = [make(folder, oracle, max_batched_tokens=48) for oracle in oracles for make in (mixed, pair)]
    for driver in (plain := mixed(folder), *drafted):
        for index, prompt in enumerate(prompts()):
            driver.submit(str(index), prompt, choices=2, seed=index, **settings)
        driver.run()
        found = {(str(i), choice): driver.answer(str(i), choice) for i in range(len(LENGTHS)) for choice in range(2)}
        assert found == (known or found)
        known.update(found)
        for key, logprobs in plain.logprobs.items():
            assert driver.logprobs[key] == pytest.approx(logprobs, abs=1e-4)
    assert all(driver.engines[-1].stats.num_accepted_tokens > 0 for driver in drafted)


def test_recycled_and_copied_trees_change_no_token() -> None:
    folder = tiny("llama")
    repeating = [[*prompt, *prompt, *prompt[:4]] for prompt in prompts() if len(prompt) < 24]
    answers = []
    for width in (1, 4, 8):
        for make in (mixed, pair):
            driver = make(folder, max_batched_tokens=64)
            engine = driver.engines[-1]
            if width > 1:
                wide = replace(engine.spec, speculation=SpeculationSpec(tree_width=width))
                speculation = choose_speculation(wide, engine.runner)
                assert speculation is not None
                speculation._goodput = None  # the clock here stands still while a step runs
                engine._speculation = speculation
            for index, prompt in enumerate(repeating):
                driver.submit(str(index), prompt, max_tokens=40)
            driver.run()
            answers.append([driver.answer(str(index)) for index in range(len(repeating))])
            assert (engine.stats.num_accepted_tokens > 0) == (width > 1)
    assert all(answer == answers[0] for answer in answers)
