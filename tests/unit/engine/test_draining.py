"""How a worker's process drains: until nothing is left, and a moment more."""

from typing import Any, cast

import pytest

from tests.unit.engine.driver import make_spec
from workers import actor
from workers.actor import WorkerActor


class Engine:
    def __init__(self) -> None:
        self.is_draining = False

    def drain(self) -> None:
        self.is_draining = True


class Service:
    """Has something to do again for a while after it had nothing left: a request that was on its way."""

    def __init__(self, *drained: bool) -> None:
        self.said = list(drained)

    @property
    def is_drained(self) -> bool:
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


def draining(*drained: bool) -> tuple[WorkerActor, Engine, Service]:
    worker, engine, service = WorkerActor(make_spec(), "x"), Engine(), Service(*drained)
    worker._engine, worker._service = cast(Any, engine), cast(Any, service)
    return worker, engine, service


async def test_it_waits_for_what_comes_while_its_senders_do_not_know_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "LINGER_S", 0.03)
    worker, engine, service = draining(True, False, True)
    assert await worker.drain(10.0)
    assert engine.is_draining
    assert service.said == [True], "it was gone before the last one came"


async def test_what_does_not_end_is_waited_for_no_longer_than_asked() -> None:
    worker, _, _ = draining(False)
    assert not await worker.drain(0.05)
    worker, _, _ = draining(True)
    assert await worker.drain(0.0), "there is nothing to wait for"
