"""An ingress replica tells of its requests, as many as are wanted, and takes limits."""

import asyncio

import openai

from baton.errors import UnavailableError
from cluster.contracts.demand import DemandAnswer, DemandReport
from cluster.contracts.tuning import Tuning
from cluster.ingress.demand_teller import DemandTeller
from cluster.ingress.service import Service
from tests.unit.ingress.fakes import FakeDispatcher


class Controller:
    def __init__(self) -> None:
        self.reports: list[DemandReport] = []
        self.answer = DemandAnswer(wants=True)
        self.is_away = False

    async def send(self, report: DemandReport) -> DemandAnswer:
        self.reports.append(report)
        if self.is_away:
            raise UnavailableError("away")
        return self.answer


async def ask(client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hi"}], max_tokens=8)


async def test_finished_requests_are_told_once_and_kept_while_nobody_answers(
    service: Service, client: openai.AsyncOpenAI
) -> None:
    controller = Controller()
    teller = DemandTeller(service, "r1", controller.send)
    await ask(client)
    await teller.tell()
    assert controller.reports[-1].finished == (), "nobody had asked for them yet"
    await ask(client)
    controller.is_away = True
    await teller.tell()
    controller.is_away = False
    await teller.tell()
    assert [one.status for one in controller.reports[-1].finished] == ["ok"]
    assert controller.reports[-1].is_whole
    await teller.tell()
    assert controller.reports[-1].finished == ()


async def test_open_requests_are_told_as_they_stand(
    service: Service, fake: FakeDispatcher, client: openai.AsyncOpenAI
) -> None:
    controller = Controller()
    teller = DemandTeller(service, "r1", controller.send)
    await teller.tell()
    fake.step_s = 0.2
    asked = asyncio.create_task(ask(client))
    while not service.open_calls:  # noqa: ASYNC110, the server opens it
        await asyncio.sleep(0.01)
    await teller.tell()
    assert [one.num_prompt_tokens > 0 for one in controller.reports[-1].open] == [True]
    await asked
    await teller.tell()
    assert controller.reports[-1].open == ()
    assert len(controller.reports[-1].finished) == 1


async def test_limits_are_taken_once(service: Service, fake: FakeDispatcher) -> None:
    controller = Controller()
    teller = DemandTeller(service, "r1", controller.send)
    await teller.tell()
    assert fake.tunings == []
    controller.answer = DemandAnswer(wants=True, tuning=Tuning(max_running=7))
    await teller.tell()
    await teller.tell()
    assert fake.tunings == [Tuning(max_running=7)]


async def test_more_than_a_report_holds_is_said(service: Service, client: openai.AsyncOpenAI) -> None:
    controller = Controller()
    teller = DemandTeller(service, "r1", controller.send)
    teller._finished = type(teller._finished)(maxlen=1)
    await teller.tell()
    await ask(client)
    await ask(client)
    await teller.tell()
    assert len(controller.reports[-1].finished) == 1
    assert not controller.reports[-1].is_whole


async def test_its_task_ends_with_the_replica(service: Service) -> None:
    controller = Controller()
    teller = DemandTeller(service, "r1", controller.send)
    teller.start()
    while not controller.reports:  # noqa: ASYNC110, its task makes them
        await asyncio.sleep(0.01)
    await teller.close()
