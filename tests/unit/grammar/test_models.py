"""Grammars with real models: every sampling field goes with them, and no way of drafting changes a token."""

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch

from tests.unit.engine.driver import OPEN, Driver
from tests.unit.grammar.model import DEMO, PERSON, ids, json_grammar, make_grammars, regex, text
from tests.unit.model.driver import make_spec
from workers.model.contract import ModelRunner
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.choose import choose_speculation

EVERYTHING: dict[str, object] = {
    "temperature": 0.9,
    "top_p": 0.9,
    "top_k": 200,
    "min_p": 0.01,
    "presence_penalty": 0.6,
    "frequency_penalty": 0.4,
    "repetition_penalty": 1.2,
    "logit_bias": {3: 2.0, 40: 100.0},
    "min_tokens": 4,
    "logprobs": 2,
    "ignore_eos": False,
}
Answers = dict[tuple[str, int], list[int]]


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


def spec(folder: Path = DEMO, role: Role = Role.MIXED, **fields: object) -> WorkerSpec:
    engine = EngineSpec(block_size=4, memory_bytes=64 << 20, max_model_len=512, max_batched_tokens=64, max_sequences=8)
    return replace(make_spec(folder), role=role, engine=engine, **fields)  # type: ignore[arg-type]


@functools.cache
def runner(name: str = "demo", copy: int = 0) -> TorchRunner:
    """`copy`: of the other side of a hand-over."""
    return TorchRunner(spec(DEMO.parent / name))


def driver(roles: tuple[Role, ...] = (Role.MIXED,), name: str = "demo", **fields: object) -> Driver:
    def made(mine: WorkerSpec) -> ModelRunner:
        return runner(name, roles.index(mine.role))

    return Driver([spec(DEMO.parent / name, role, **fields) for role in roles], made, make_grammars=make_grammars)


def ask(driver: Driver, choices: int = 1, turn: str = "", **sampling: object) -> Answers:
    settings = EVERYTHING | {"max_tokens": 120} | sampling
    prompts = ["There was a man whose name was", "Who is it?"]
    for number, prompt in enumerate(prompts):
        driver.submit(
            f"{turn}{number}", ids(prompt), choices=choices, seed=number, grammar=json_grammar(PERSON), **settings
        )
    driver.submit(f"{turn}free", ids("Once upon a time"), max_tokens=40, temperature=0.7)
    driver.run()
    return {
        (key[0].removeprefix(turn), key[1]): driver.answer(*key) for key in driver.tokens if key[0].startswith(turn)
    }


def speculate(driver: Driver, method: str, **fields: object) -> None:
    engine = driver.engines[-1]
    mine = replace(engine.spec, speculation=SpeculationSpec(method=method), **fields)  # type: ignore[arg-type]
    speculation = choose_speculation(mine, engine.runner, driver.clock)
    assert speculation is not None
    speculation._goodput = None  # the clock here stands still while a step runs
    engine._speculation = speculation


def test_answers_are_valid_and_the_same_on_each_side_of_a_hand_over_and_from_the_cache() -> None:
    one = driver()
    want = ask(one, choices=2)
    for key, answer in want.items():
        if key[0] != "free":
            jsonschema.validate(json.loads(text(answer)), PERSON)
    assert ask(one, choices=2, turn="again") == want
    assert one.engines[0].stats.num_prefix_hit_tokens > 0
    assert ask(driver((Role.PREFILL, Role.DECODE)), choices=2) == want


@pytest.mark.parametrize("method", ["ngram", "auto", "self", "draft"])
def test_no_way_of_drafting_changes_a_token(method: str) -> None:
    want = ask(driver())
    drafted = driver()
    draft = {"draft_model": str(DEMO.parent / "demo-draft"), "draft_model_name": "demo-draft"}
    speculate(drafted, method, **(draft if method == "draft" else {}))
    assert ask(drafted) == want
    assert drafted.engines[0].stats.num_accepted_tokens > 0


def test_a_model_that_keeps_states_takes_forced_tokens_at_once_too() -> None:
    alone: Answers = {}
    for method in (None, "ngram"):
        one = driver(name="demo-hybrid")
        if method is not None:
            speculate(one, method)
        found = ask(one)
        assert found == (alone or found)
        alone = found
        assert one.engines[0].stats.num_steps < sum(map(len, found.values()))
    for key, answer in alone.items():
        if key[0] != "free":
            jsonschema.validate(json.loads(text(answer)), PERSON)


def test_logprobs_are_those_of_what_the_grammar_leaves() -> None:
    one = driver()
    one.submit("0", ids("Is it so?"), grammar=regex("(yes|no), of course"), logprobs=5, max_tokens=30, temperature=1.0)
    one.run()
    answer = one.answer("0")
    logprobs = [one.logprobs["0", 0][place] for place in range(len(answer))]
    assert logprobs[0] < 0
    assert logprobs[-1] == 0.0  # nothing else was left
    other = driver()
    other.submit("0", ids("Is it so?"), grammar=regex("[ab]"), logprobs=5, max_tokens=1, temperature=1.0)
    tops: list[tuple[int, float]] = []
    other.engines[0]._emit = lambda report: tops.extend(
        (entry.token_id, entry.logprob)
        for outputs in report.outputs.values()
        for output in outputs
        for of_token in output.logprobs
        for entry in of_token.top
    )
    while not other.engines[0].is_idle:
        other.step()
    assert {token for token, _ in tops} == {ids("a")[0], ids("b")[0]}
    assert math.fsum(math.exp(logprob) for _, logprob in tops) == pytest.approx(1.0, abs=1e-5)
