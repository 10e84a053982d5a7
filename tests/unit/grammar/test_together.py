"""Grammars, prompt logprobs and adapters in the same requests: none changes what another gives, however written."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.v1 import worker_pb2
from tests.adapters import adapter_of, merged
from tests.unit.adapters.asked import named
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.grammar.model import DEMO, PERSON, VOCAB_SIZE, driver, ids, json_grammar, make_grammars
from tests.unit.grammar.test_engine import HANDOVER, check
from tests.unit.model.driver import make_spec
from workers.adapters.adapter import AdapterSpec
from workers.grammar.book import GrammarBook
from workers.model.contract import ModelRunner
from workers.model.fake import FakeRunner
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, WorkerSpec
from workers.speculative.ngram import NgramDrafter

PROMPT = ids("Tell me of somebody whom nobody has told me of.")
SQL = AdapterSpec(name="sql", folder="/adapters/sql", content_hash="ab")
Told = list[tuple[float, int]]
Answers = dict[tuple[str, int], list[int]]


@pytest.fixture(autouse=True)
def _one_thread_and_closed_links() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


def told(driver: Driver, request_id: str) -> Told:
    """Each place once: one that was preempted may tell the last block again."""
    places: dict[int, tuple[float, int]] = {}
    for news in driver.prompts[request_id]:
        assert news.start <= len(places) + 1
        found = zip(news.logprobs, news.ranks, strict=True)
        places |= {news.start + at: (round(logprob, 3), rank) for at, (logprob, rank) in enumerate(found)}
    return [places[place] for place in sorted(places)]


def load(driver: Driver) -> Driver:
    for engine in driver.engines:
        engine.adapters.load(SQL)
    driver.step()
    return driver


def ask(driver: Driver, count: int = 2, choices: int = 2) -> Answers:
    """Half of them with an adapter; then all again, from what the caches have."""
    answers: Answers = {}
    for turn in ("", "again "):
        for index in range(count):
            driver.adapter = worker_pb2.Adapter(name="sql", hash="ab") if index % 2 else None
            driver.submit(
                f"{turn}{index}",
                [*PROMPT, index],
                choices=choices,
                seed=index,
                max_tokens=200,
                temperature=1.0,
                ignore_eos=False,
                grammar=json_grammar(PERSON),
                prompt_logprobs=1,
            )
        driver.run()
        for index in range(count):
            prompt = [*PROMPT, index]
            assert told(driver, f"{turn}{index}") == [
                FakeRunner.expected_prompt_logprob(prompt, place) for place in range(1, len(prompt))
            ]
            for choice in range(choices):
                answers[f"{turn}{index}", choice] = driver.answer(f"{turn}{index}", choice)
    return answers


@functools.cache
def wanted() -> Answers:
    answers = ask(load(driver()))
    check(answers)
    return answers


@pytest.mark.parametrize("roles", [(Role.MIXED,), HANDOVER])
@pytest.mark.parametrize("engine", [{}, {"max_batched_tokens": 7}, {"prefix_cache": False}])
def test_all_three_with_several_choices_in_chunks_and_from_caches(
    roles: tuple[Role, ...], engine: dict[str, object]
) -> None:
    assert ask(load(driver(roles, **engine))) == wanted()


def test_all_three_beside_drafts() -> None:
    for roles in ((Role.MIXED,), HANDOVER):
        drafted = load(driver(roles, Oracle(wanted(), vocab_size=VOCAB_SIZE, right=0.8, width=3)))
        assert ask(drafted) == wanted()
        assert drafted.engines[-1].stats.num_accepted_tokens > 0


def test_all_three_of_sequences_that_are_preempted() -> None:
    tight = load(driver(memory_bytes=40 * 4 * 4 * 4))
    assert ask(tight) == wanted()
    assert tight.engines[0].stats.num_preemptions > 0


def test_an_adapter_that_is_retired_while_a_grammar_is_compiled_serves_that_request() -> None:
    one = load(driver())
    one.adapter = worker_pb2.Adapter(name="sql", hash="ab")
    one.submit("r", PROMPT, grammar=json_grammar(PERSON), max_tokens=200)
    adapters = one.engines[0].adapters
    adapters.retire("sql")
    uses, removed = adapters.num_uses("sql"), adapters.remove("sql")
    one.step()
    assert (uses.result(0), removed.result(0)) == (1, False)
    one.run()
    check({("r", 0): one.answer("r")})
    removed = adapters.remove("sql")
    one.step()
    assert removed.result(0)


# With a real model: what an engine gives that serves the merged weights.


@functools.cache
def adapter() -> Path:
    return adapter_of(DEMO, 3)


def real_spec(model: Path, role: Role = Role.MIXED) -> WorkerSpec:
    engine = EngineSpec(block_size=4, memory_bytes=64 << 20, max_model_len=512, max_batched_tokens=64, max_sequences=8)
    return replace(make_spec(model), role=role, engine=engine)


def ask_real(driver: Driver, *, is_merged: bool) -> tuple[Answers, dict[str, list[float]]]:
    [one] = named({"one": adapter()})
    answers: Answers = {}
    prompts: dict[str, list[float]] = {}
    for turn in ("", "again "):  # then each has its prefix cached, of its own adapter
        if not is_merged:
            driver.adapter = None
            driver.submit(f"{turn}bare", PROMPT, max_tokens=3, prompt_logprobs=0)
            driver.adapter = worker_pb2.Adapter(name="one", hash=one.content_hash)
        for prompt_logprobs, name in ((1, "told"), (None, "not told")):
            more = {} if prompt_logprobs is None else {"prompt_logprobs": prompt_logprobs}
            driver.submit(
                turn + name,
                PROMPT,
                choices=2,
                grammar=json_grammar(PERSON),
                max_tokens=24,
                temperature=0.8,
                ignore_eos=False,
                **more,
            )
        driver.run()
        for name in ("told", "not told"):
            answers |= {(turn + name, choice): driver.answer(turn + name, choice) for choice in range(2)}
            prompts[turn + name] = [value for news in driver.prompts[turn + name] for value in news.logprobs]
    return answers, prompts


def merged_grammars(_: WorkerSpec, runner: ModelRunner) -> GrammarBook:
    return GrammarBook(DEMO, runner)


@pytest.mark.slow
def test_a_real_model_with_an_adapter_gives_what_its_merged_weights_give() -> None:
    alone = Driver([real_spec(merged(DEMO, adapter()))], TorchRunner, make_grammars=merged_grammars)
    want, want_prompts = ask_real(alone, is_merged=True)
    assert want["told", 0] == want["again told", 0] == want["not told", 0] != want["told", 1]
    specs = [replace(real_spec(DEMO, role), adapters=named({"one": adapter()})) for role in HANDOVER]
    one = Driver(specs, TorchRunner, NgramDrafter(), make_grammars=make_grammars)
    answers, prompts = ask_real(one, is_merged=False)
    assert answers == want
    for name, logprobs in want_prompts.items():
        assert len(logprobs) == (len(PROMPT) - 1 if "not" not in name else 0)
        assert prompts[name] == pytest.approx(logprobs, abs=1e-3)
    bare = [value for news in one.prompts["bare"] for value in news.logprobs]
    assert bare != pytest.approx(want_prompts["told"], abs=1e-2)
    assert [value for news in one.prompts["again bare"] for value in news.logprobs] == pytest.approx(bare, abs=1e-4)
