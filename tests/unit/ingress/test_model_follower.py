"""How an ingress replica follows the table of models while requests come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from baton.errors import ConfigError, InternalError, ModelNotFoundError, UnavailableError
from cluster.config.schema import BatonConfig, PoolConfig, PoolsConfig, RouterConfig
from cluster.contracts.served_model import ModelTable, ServedModel
from cluster.ingress import model_follower
from cluster.ingress.metrics import Metrics
from cluster.ingress.model_follower import ModelFollower
from cluster.ingress.model_host import Hosted
from cluster.ingress.service import Service
from cluster.ingress.services import Services
from cluster.router.table import Health
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer

TURN_S = 0.005


class Workers(FakeDispatcher):
    def __init__(self, *, is_up: bool) -> None:
        super().__init__(demo_tokenizer())
        self.is_up = is_up
        self.closed = False
        self.bug = False

    def health(self) -> Health:
        return Health(ok=self.is_up, reason="" if self.is_up else "none is up")

    def check(self) -> None:
        if self.bug:
            raise InternalError("a loop has ended")

    async def close(self) -> None:
        self.closed = True


class Teller:
    async def close(self) -> None: ...


class Host:
    def __init__(self) -> None:
        self.workers: dict[str, Workers] = {}  # by entry, the last one's
        self.is_up = True  # of those to come
        self.bad: set[str] = set()

    async def open(self, row: ServedModel) -> Hosted:
        await asyncio.sleep(0)
        if row.entry in self.bad:
            raise ConfigError("tokenizer.json: is cut short")
        workers = self.workers[row.entry] = Workers(is_up=self.is_up)
        aliases = [row.alias] if row.alias else []
        service = Service(
            dispatcher=workers,
            tokenizer=demo_tokenizer(),
            model=row.served_name,
            aliases=aliases,
            router=RouterConfig(),
        )
        return Hosted(row=row, service=service, dispatcher=cast(Any, workers), teller=cast(Any, Teller()))


@dataclass
class Following:
    follower: ModelFollower
    services: Services
    host: Host
    table: ModelTable
    told: Mapping[str, int]
    is_away: bool = False

    def put(self, *models: ServedModel) -> None:
        self.table = ModelTable(version=self.table.version + 1, models=models)

    async def fetch(self, version: int, num_open: Mapping[str, int]) -> ModelTable | None:
        self.told = dict(num_open)
        if self.is_away:
            raise UnavailableError("nobody there")
        return self.table if version != self.table.version else None

    @property
    def names(self) -> list[str]:
        return self.services.names

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(TURN_S)


def row(entry: str, served_name: str = "chat", **changes: Any) -> ServedModel:
    config = BatonConfig(model="demo", served_name=served_name)
    return replace(ServedModel(entry=entry, controller=f"c.{entry}", config=config, model_path="/m"), **changes)


@pytest.fixture
async def following(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Following]:
    monkeypatch.setattr(model_follower, "FOLLOW_S", TURN_S)
    monkeypatch.setattr(model_follower, "QUIET_S", 4 * TURN_S)
    monkeypatch.setattr(model_follower, "RETRY_S", TURN_S)
    services, host = Services(metrics=Metrics(list)), Host()
    made = Following(cast(Any, None), services, host, ModelTable(version=1, models=(row("v1"),)), {})
    made.follower = ModelFollower(services=services, host=host, fetch=made.fetch)
    await made.follower.start([])
    yield made
    await made.follower.close()
    assert all(workers.closed for workers in host.workers.values())


async def test_a_new_version_is_named_when_its_workers_answer(following: Following) -> None:
    following.host.is_up = False
    following.put(row("v1"), row("v2", weight=3.0))
    await following.until(lambda: "v2" in following.host.workers)
    assert following.names == ["chat", "chat@v1"]
    following.host.workers["v2"].is_up = True
    await following.until(lambda: "chat@v2" in following.names)
    assert [version.weight for version in following.services] == [1.0, 3.0]
    await following.until(lambda: following.told == {"v1": 0, "v2": 0})


async def test_weights_and_numbers_of_workers_change_without_anything_else(following: Following) -> None:
    workers, more = following.host.workers["v1"], row("v1", weight=7.0)
    config = replace(more.config, pools=PoolsConfig(mixed=PoolConfig(workers=3)))
    following.put(replace(more, config=config))
    await following.until(lambda: [version.weight for version in following.services] == [7.0])
    assert following.host.workers["v1"] is workers


async def test_other_bounds_are_of_a_service_of_their_own(following: Following) -> None:
    workers, changed = following.host.workers["v1"], row("v1")
    following.put(replace(changed, config=replace(changed.config, router=RouterConfig(max_queue=1))))
    await following.until(lambda: workers.closed)
    assert following.host.workers["v1"] is not workers
    assert following.names == ["chat", "chat@v1"]


async def test_what_runs_on_a_model_that_is_gone_is_finished(following: Following) -> None:
    service, workers = following.services.of("chat"), following.host.workers["v1"]
    call = cast(Any, object())
    service.open_calls.add(call)
    following.put(row("tales", "tales"))
    await following.until(lambda: following.names == ["tales", "tales@tales"] or following.names == ["tales"])
    with pytest.raises(ModelNotFoundError):
        following.services.of("chat@v1")
    await following.until(lambda: following.told.get("v1") == 1)
    await asyncio.sleep(8 * TURN_S)
    assert not workers.closed
    service.open_calls.clear()
    await following.until(lambda: workers.closed)
    await following.until(lambda: "v1" not in following.told)


async def test_workers_that_get_an_entry_are_served_without_a_gap(following: Following) -> None:
    """One model becomes several: its row has another name, its workers are the same."""
    following.put(row("", controller="c.v1"))
    names = set()
    await following.until(lambda: names.add(tuple(following.names)) or following.names == ["chat"])
    assert () not in names
    await following.until(lambda: list(following.told) == [""] or "v1" not in following.told)


async def test_a_model_whose_files_are_wrong_is_tried_again(following: Following) -> None:
    following.host.bad.add("v2")
    following.put(row("v1"), row("v2"))
    await asyncio.sleep(4 * TURN_S)
    assert following.names == ["chat", "chat@v1"]
    following.host.bad.clear()
    await following.until(lambda: "chat@v2" in following.names)


async def test_a_model_that_is_taken_back_before_it_answers_is_closed(following: Following) -> None:
    following.host.is_up = False
    following.put(row("v1"), row("v2"))
    await following.until(lambda: "v2" in following.host.workers)
    following.put(row("v1"))
    await following.until(lambda: following.host.workers["v2"].closed)
    assert following.names == ["chat", "chat@v1"]


async def test_the_last_table_holds_while_the_controller_is_away(following: Following) -> None:
    following.is_away = True
    following.put(row("tales", "tales"))
    await asyncio.sleep(4 * TURN_S)
    assert following.names == ["chat", "chat@v1"]
    following.is_away = False
    await following.until(lambda: "tales" in following.names)


async def test_a_bug_in_one_of_its_loops_makes_the_replica_unhealthy(following: Following) -> None:
    following.follower.check()
    following.host.workers["v1"].bug = True
    with pytest.raises(InternalError):
        following.follower.check()


async def test_it_starts_with_what_it_was_told_where_nobody_can_be_asked() -> None:
    services, host = Services(metrics=Metrics(list)), Host()

    async def away(version: int, num_open: Mapping[str, int]) -> ModelTable | None:
        raise UnavailableError("nobody there")

    host.bad.add("v2")
    follower = ModelFollower(services=services, host=host, fetch=away)
    await follower.start([row("v1"), row("v2")])
    assert services.names == ["chat", "chat@v1"]
    await follower.close()
    with pytest.raises(ConfigError, match="cut short"):
        await ModelFollower(services=services, host=host, fetch=away).start([row("v2")])
