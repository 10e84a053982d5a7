"""What serves a model in an ingress replica."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from cluster.config.schema import BatonConfig
from cluster.contracts.demand import DemandAnswer, DemandReport
from cluster.contracts.served_model import ServedModel
from cluster.ingress import model_host
from cluster.ingress.metrics import Metrics
from cluster.ingress.model_host import Controllers, ModelHost
from cluster.ingress.tracing.ring import Ring
from cluster.router.workers import WorkerEntry
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer
from workers.model.registry import resolve_model

ROW = ServedModel(
    entry="",
    controller="baton-controller",
    config=BatonConfig(model="demo", served_name="demo"),
    model_path=resolve_model("demo"),
    workers_model="",
    weight=1.0,
    file_weight=1.0,
)


async def test_two_that_serve_one_model_for_a_while_have_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has one stream for each id: two with one id would cut each other off."""
    ids: list[str] = []

    class Recorded(FakeDispatcher):
        def __init__(self, *, ingress_id: str, **_: object) -> None:
            super().__init__(demo_tokenizer())
            ids.append(ingress_id)

        async def start(self) -> None: ...

        async def close(self) -> None: ...

    async def no_workers() -> Sequence[WorkerEntry]:
        return ()

    async def send(report: DemandReport) -> DemandAnswer:
        raise TimeoutError

    monkeypatch.setattr(model_host, "Dispatcher", Recorded)
    host = ModelHost(
        ingress_id="a",
        secret="s",
        controllers=Controllers(
            workers=lambda name, model: no_workers, adapters=cast(Any, None), demand=lambda name: cast(Any, send)
        ),
        metrics=Metrics(list),
        grammars=cast(Any, None),
        ring=Ring(8),
    )
    old, new = await host.open(ROW), await host.open(ROW)
    assert len(set(ids)) == 2
    await old.close()
    await new.close()
