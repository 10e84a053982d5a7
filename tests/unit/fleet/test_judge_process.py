"""Simulations in a process of their own: their answer, and what happens where none comes."""

import os
import signal
from collections.abc import AsyncIterator

import pytest

from cluster.fleet.judge_process import JudgeError, JudgeProcess
from cluster.planner.online.judge import Load, Question
from cluster.planner.online.sampling import replayed
from cluster.planner.online.setup import Setup
from cluster.planner.online.twin import Twin
from tests.unit.planner.online.fleets import LATENCY, SLO_, fleet
from tests.unit.planner.online.test_sampling import whole
from workers.spec import Role


def question() -> Question:
    load = Load(arrivals=replayed([(whole(i / 2, 100, 10), 10) for i in range(40)], block_size=64))
    return Question(
        twin=Twin(base=fleet(mixed=1)),
        latency={Role.MIXED: LATENCY},
        extra_s=0.0,
        slo=SLO_,
        setup=Setup(mixed=1),
        load=load,
        heavier=load,
        past=load,
        content=0.95,
    )


@pytest.fixture
async def judge() -> AsyncIterator[JudgeProcess]:
    made = JudgeProcess(60.0)
    yield made
    await made.close()


async def test_a_question_is_answered_and_what_it_cost_is_said(judge: JudgeProcess) -> None:
    answer, took_s = await judge.ask(question())
    assert answer.now.attainment == 1.0
    assert answer.num_requests == 80
    assert 0 < took_s < 30


async def test_where_the_process_dies_it_is_said_and_the_next_question_has_another(judge: JudgeProcess) -> None:
    await judge.ask(question())
    assert judge.pid is not None
    os.kill(judge.pid, signal.SIGKILL)
    with pytest.raises(JudgeError, match="ended"):
        await judge.ask(question())
    assert (await judge.ask(question()))[0].now.attainment == 1.0


async def test_what_takes_too_long_is_ended() -> None:
    judge = JudgeProcess(0.01)
    with pytest.raises(JudgeError, match=r"within 0\.01 s"):
        await judge.ask(question())
    assert judge.pid is None
