"""Grammars of workers of several ranks: the leader samples, and so it alone has masks."""

import json

import jsonschema
import pytest

from tests.unit.engine.driver import Driver
from tests.unit.grammar.model import DEMO, PERSON, ids, json_grammar, make_grammars, text
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import one_thread, spec
from workers.model.runner import TorchRunner

__all__ = ["one_thread"]  # a fixture for all tests here


@pytest.mark.parametrize(("size", "is_sequence"), [(2, True), pytest.param(3, False, marks=pytest.mark.slow)])
def test_ranks_give_the_answers_of_one(ranks: RankProcesses, size: int, is_sequence: bool) -> None:
    mine = spec(DEMO, max_model_len=256, sequence_parallel_over_tokens=4)

    def answers(driver: Driver) -> list[list[int]]:
        for number in range(2):
            prompt = ids(f"There were {number} men, and the name of one of them was")
            driver.submit(
                str(number), prompt, seed=number, temperature=1.0, max_tokens=100, grammar=json_grammar(PERSON)
            )
        driver.run()
        return [driver.answer(str(number)) for number in range(2)]

    want = answers(Driver([mine], TorchRunner, make_grammars=make_grammars))
    for answer in want:
        jsonschema.validate(json.loads(text(answer)), PERSON)
    with ranks.gang(mine, size, sequence=is_sequence) as led:
        assert answers(Driver([mine], lambda _: led.runner, make_grammars=make_grammars)) == want
