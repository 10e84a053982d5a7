"""Several models behind one ingress: which service answers a request, and by what names."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from baton.errors import ModelNotFoundError, UnavailableError
from baton.v1 import inference_pb2 as pb
from cluster.config.schema import RouterConfig
from cluster.contracts.slo import SLO
from cluster.ingress.grpc_api import GRPCRoutes
from cluster.ingress.http_api import build_app
from cluster.ingress.metrics import Metrics
from cluster.ingress.service import Service
from cluster.ingress.services import Services, Version
from cluster.ingress.session_of import session_of
from cluster.router.table import Health
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer

ENTRIES = {"v1": ("chat", 90.0), "v2": ("chat", 10.0), "tales": ("tales", 1.0)}


class Dispatcher(FakeDispatcher):
    """Whose health a test sets."""

    def __init__(self) -> None:
        super().__init__(demo_tokenizer())
        self.fault = ""

    def health(self) -> Health:
        return Health(ok=not self.fault, reason=self.fault)


def several() -> tuple[Services, dict[str, Dispatcher]]:
    services = Services(metrics=Metrics(list))
    fakes = {entry: Dispatcher() for entry in ENTRIES}
    for entry, (served, weight) in ENTRIES.items():
        service = Service(
            dispatcher=fakes[entry],
            tokenizer=demo_tokenizer(),
            model=served,
            aliases=[f"{served}@{entry}"],
            router=RouterConfig(),
            metrics=services.metrics,
            slo=SLO(ttft_s=2.0, tpot_s=1.0) if served == "tales" else None,
        )
        services.add(Version(entry=entry, service=service, weight=weight))
    return services, fakes


def entry_of(services: Services, service: Service) -> str:
    return next(version.entry for version in services if version.service is service)


def drawn(services: Services, count: int = 2000, name: str = "chat") -> Counter[str]:
    return Counter(entry_of(services, services.of(name)) for _ in range(count))


def test_requests_are_shared_by_weight() -> None:
    services, _ = several()
    assert 100 < drawn(services)["v2"] < 320  # 200 +- 9 standard deviations
    services.weigh("v2", 0)
    assert drawn(services, 50) == {"v1": 50}
    assert entry_of(services, services.of("chat@v2")) == "v2"
    services.weigh("v2", 1), services.weigh("v1", 0)
    assert drawn(services, 50) == {"v2": 50}


def test_a_session_stays_where_it_is_and_few_move_when_weights_change() -> None:
    services, _ = several()

    def where() -> dict[str, str]:
        return {user: entry_of(services, services.of("chat", session=user)) for user in map(str, range(2000))}

    before = where()
    assert before == where()
    assert 100 < Counter(before.values())["v2"] < 320
    services.weigh("v2", 30)
    after = where()
    assert all(after[user] == "v2" for user in before if before[user] == "v2")
    assert 380 < Counter(after.values())["v2"] < 620  # a quarter


def test_a_version_without_workers_gets_nothing_while_another_has_some() -> None:
    services, fakes = several()
    fakes["v1"].fault = "none is up"
    services.look()
    assert drawn(services, 50) == {"v2": 50}
    fakes["v2"].fault = "none is up"
    services.look()
    assert set(drawn(services, 200)) == {"v1", "v2"}
    assert services.health().ok
    fakes["tales"].fault = "no"
    assert services.health() == Health(ok=False, reason="v1: none is up; v2: none is up; tales: no")


def test_names_are_all_models_versions_and_adapters() -> None:
    services, fakes = several()
    fakes["tales"].adapters["pirate"] = "h"
    assert services.names == ["chat", "tales", "pirate", "chat@v1", "chat@v2"]
    assert entry_of(services, services.of("pirate")) == "tales"
    assert entry_of(services, services.of(None)) in ("v1", "v2")
    assert services.of_entry("chat") is None
    assert services.about("chat").aliases == {"chat@v1"}
    with pytest.raises(ModelNotFoundError, match=r'this server serves "chat", "tales", "pirate", "chat@v1", "chat@v2"'):
        services.of("other")
    services.remove("v2")
    services.remove("v1")
    with pytest.raises(ModelNotFoundError):
        services.of("chat@v2")
    services.remove("tales")
    with pytest.raises(UnavailableError, match="no model is served"):
        services.of("")


def test_a_session_is_the_first_of_the_fields_that_clients_send() -> None:
    assert session_of({"user": "u", "prompt_cache_key": "k"}) == "k"
    assert session_of({"user": "u", "prompt_cache_key": None}) == "u"
    assert session_of({"user": 3}) == ""


@pytest.fixture
async def served() -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Dispatcher]]]:
    services, fakes = several()
    transport = httpx.ASGITransport(build_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        yield client, fakes


BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Once", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
}


@pytest.mark.parametrize("path", BODIES)
async def test_every_route_asks_the_model_that_it_names(
    served: tuple[httpx.AsyncClient, dict[str, Dispatcher]], path: str
) -> None:
    client, fakes = served
    for name, entry in {"tales": "tales", "chat@v2": "v2", "chat@v1": "v1"}.items():
        answer = await client.post(path, json=BODIES[path] | {"model": name})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name
        assert [other for other in fakes if fakes[other].requests] == [entry]
        fakes[entry].requests.clear()
    unknown = await client.post(path, json=BODIES[path] | {"model": "other"})
    assert unknown.status_code == 404
    assert "chat@v2" in unknown.text


async def test_models_and_health_tell_of_each(served: tuple[httpx.AsyncClient, dict[str, Dispatcher]]) -> None:
    client, fakes = served
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["chat", "tales", "chat@v1", "chat@v2"]
    assert {model["parent"] for model in listed} == {None}
    fakes["v2"].fault = "nobody"
    health = await client.get("/health")
    assert health.status_code == 200
    assert health.json()["models"]["v2"] == {
        "served_name": "chat", "weight": 10.0, "status": "unhealthy", "reason": "nobody",
    }  # fmt: skip
    counted = await client.post("/tokenize", json={"model": "chat@v2", "prompt": "Once upon"})
    assert counted.json()["count"]


class Context:
    """Of a gRPC call: no metadata, and what it was answered."""

    def __init__(self) -> None:
        self.details = ""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def set_code(self, code: Any) -> None: ...

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None: ...


async def test_grpc_asks_the_model_that_it_names() -> None:
    services, fakes = several()
    routes, context = GRPCRoutes(services), Context()
    request = pb.GenerateRequest(model="tales", prompt="Once", sampling=pb.SamplingParams(max_tokens=2))
    assert [one async for one in routes.generate(request, context)]
    assert [entry for entry in fakes if fakes[entry].requests] == ["tales"]
    models = (await routes.list_models(context)).models
    assert [model.id for model in models] == ["chat", "tales", "chat@v1", "chat@v2"]
    request.model = "other"
    assert not [one async for one in routes.generate(request, context)]
    assert "chat@v1" in context.details


async def test_open_calls_are_counted_until_they_end() -> None:
    services, _ = several()
    service = services.of("tales")
    call = service.call([[1, 2]], options(), model="tales", route="completions")
    run = service.run(call)
    ended: list[str] = []
    services.on_finished.append(lambda finished: ended.append(finished.model))
    slos: list[SLO | None] = []
    services.on_finished.append(lambda finished: slos.append(finished.slo))
    assert not service.num_open
    deltas = run.deltas()
    await anext(deltas)
    assert service.num_open == 1
    await deltas.aclose()
    await asyncio.sleep(0)
    assert not service.num_open
    assert ended == ["tales"]
    version = services.of("chat@v2")
    run = version.run(version.call([[1, 2]], options(), model="chat", route="completions"))
    async for _ in run.deltas():
        pass
    assert ended == ["tales", "chat@v2"]
    assert slos == [SLO(ttft_s=2.0, tpot_s=1.0), None]


def options() -> Any:
    from cluster.ingress.sampling import SamplingOptions

    return SamplingOptions(said={"max_tokens": 5})


class Loading:
    def __init__(self, fake: Dispatcher) -> None:
        self._fake = fake

    async def load(self, name: str, folder: str) -> None:
        self._fake.adapters[name] = "h"

    async def unload(self, name: str) -> None:
        del self._fake.adapters[name]


async def test_an_adapter_is_loaded_for_the_model_that_is_named() -> None:
    services, fakes = several()
    for version in services:
        version.service.adapters = Loading(fakes[version.entry])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(services)), base_url="http://t") as client:

        async def post(verb: str, **body: str) -> tuple[int, str]:
            path = {"lora_path": "/x"} if verb == "load" else {}
            answer = await client.post(f"/v1/{verb}_lora_adapter", json={"lora_name": "sql", **path, **body})
            return answer.status_code, answer.text

        status, said = await post("load")
        assert (status, "could be chat@v1, chat@v2, tales@tales; name one" in said) == (400, True)
        status, said = await post("load", model="chat")
        assert (status, "has several versions; name one" in said) == (400, True)
        assert (await post("load", model="other"))[0] == 404
        assert (await post("load", model="chat@v2"))[0] == 200
        assert (await post("load", model="chat@v1"))[0] == 200  # a version of the same model
        status, said = await post("load", model="tales")
        assert (status, "'sql' is another model's name here" in said) == (400, True)
        assert (await post("load", model="tales", lora_name="chat"))[0] == 400
        assert entry_of(services, services.of("sql", session="u")) in ("v1", "v2")
        assert (await post("unload"))[0] == 400
        assert (await post("unload", model="chat@v1"))[0] == 200
        assert (await post("unload"))[0] == 200
        assert not any(fake.adapters for fake in fakes.values())
