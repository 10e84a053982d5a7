"""LoRA adapters at the public doors: named by requests, listed, loaded and unloaded, and kept to the keys that may."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from baton.errors import InvalidRequestError, ModelNotFoundError
from baton.v1 import inference_pb2 as pb
from cluster.ingress.service import Service
from tests.doors.keyed import keyed_ingress
from tests.unit.ingress.fakes import FakeDispatcher
from workers.adapters.adapter import AdapterName

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
QUESTION: Any = [{"role": "user", "content": "hi"}]
ELSEWHERE: dict[str, Any] = {
    "/v1/chat/completions": {"messages": QUESTION},
    "/v1/responses": {"input": "hi"},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 3},
    "/v1/messages/count_tokens": {"messages": QUESTION},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5]},
}


class Loading:
    """As the controller's: adapters of any folder but /wrong."""

    def __init__(self, fake: FakeDispatcher) -> None:
        self._fake = fake

    async def load(self, name: str, folder: str) -> None:
        if folder == "/wrong":
            raise InvalidRequestError("lora_path: '/wrong' is no folder below adapters_dynamic.folders", "lora_path")
        self._fake.adapters[name] = "ab"

    async def unload(self, name: str) -> None:
        if self._fake.adapters.pop(name, None) is None:
            raise ModelNotFoundError(f"lora_name: {name!r} is not loaded", "lora_name")


async def test_requests_name_an_adapter_as_their_model(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.adapters = {"sql": "ab", "team/poems": "cd"}
    text = await client.completions.create(model="sql", prompt="Once", max_tokens=3)
    chat = await client.chat.completions.create(model="team/poems", messages=QUESTION, max_tokens=3)
    bare = await client.completions.create(model="demo", prompt="Once", max_tokens=3)
    assert (text.model, chat.model, bare.model) == ("sql", "team/poems", "demo")
    asked = [request.adapter for request in fake.requests]
    assert asked == [AdapterName("sql", "ab"), AdapterName("team/poems", "cd"), None]
    stream = await client.completions.create(model="sql", prompt="Once", max_tokens=3, stream=True)
    assert {chunk.model async for chunk in stream} == {"sql"}


async def test_adapters_are_listed_with_the_model_that_they_are_served_on(
    client: openai.AsyncOpenAI, stub: Any, fake: FakeDispatcher
) -> None:
    fake.adapters = {"sql": "ab", "team/poems": "cd"}
    listed = [(model.id, model.parent) async for model in client.models.list()]  # type: ignore[attr-defined]
    assert listed == [("demo", None), ("sql", "demo"), ("team/poems", "demo")]
    assert (await client.models.retrieve("team/poems")).id == "team/poems"
    models = (await stub.ListModels(pb.ListModelsRequest())).models
    assert [(model.id, model.parent) for model in models] == [("demo", ""), ("sql", "demo"), ("team/poems", "demo")]


async def test_a_name_that_is_neither_is_404_with_those_that_are(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    fake.adapters = {"sql": "ab"}
    for path in ("/v1/completions", "/tokenize"):
        reply = await http.post(path, json={"model": "poems", "prompt": "a"})
        assert reply.status_code == 404
        assert reply.json()["error"]["message"] == 'model is "poems"; this server serves "demo", "sql"'
    assert (await http.get("/v1/models/poems")).status_code == 404


async def test_grpc_names_them_too(stub: Any, fake: FakeDispatcher) -> None:
    fake.adapters = {"sql": "ab"}
    assert [one async for one in stub.Generate(pb.GenerateRequest(prompt="Once", model="sql"))]
    assert fake.requests[0].adapter == AdapterName("sql", "ab")


async def test_they_are_loaded_and_unloaded_as_vllm_does_it(
    http: httpx.AsyncClient, service: Service, fake: FakeDispatcher
) -> None:
    service.adapters = Loading(fake)
    reply = await http.post(LOAD, json={"lora_name": "sql", "lora_path": "/adapters/sql"})
    assert (reply.status_code, reply.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
    assert (await http.post("/v1/completions", json={"model": "sql", "prompt": "a"})).status_code == 200
    reply = await http.post(UNLOAD, json={"lora_name": "sql"})
    assert (reply.status_code, reply.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    assert (await http.post("/v1/completions", json={"model": "sql", "prompt": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (LOAD, {"lora_name": "sql", "lora_path": "/wrong"}, 400, "lora_path"),
        (LOAD, {"lora_name": "sql"}, 400, "lora_path"),
        (LOAD, {"lora_path": "/x"}, 400, "lora_name"),
        (LOAD, {"lora_name": 3, "lora_path": "/x"}, 400, "lora_name"),
        (LOAD, {"lora_name": "sql", "lora_path": "/x", "load_inplace": True}, 400, "load_inplace"),
        (LOAD, {"lora_name": "sql", "lora_path": "/x", "base": "y"}, 400, "base"),
        (UNLOAD, {"lora_name": "nobody"}, 404, "lora_name"),
    ],
)
async def test_what_is_wrong_with_such_a_request_is_named(
    http: httpx.AsyncClient,
    service: Service,
    fake: FakeDispatcher,
    path: str,
    body: dict[str, Any],
    status: int,
    field: str,
) -> None:
    service.adapters = Loading(fake)
    reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, field)


async def test_without_folders_in_the_config_nothing_is_loaded(http: httpx.AsyncClient) -> None:
    for path in (LOAD, UNLOAD):
        reply = await http.post(path, json={"lora_name": "sql", "lora_path": "/x"})
        assert reply.status_code == 403
        assert "adapters_dynamic.folders of its config" in reply.json()["error"]["message"]


async def test_a_key_for_some_models_alone_reaches_their_adapters_and_changes_none(tmp_path: Path) -> None:
    async with keyed_ingress(tmp_path / "keys.yaml") as keyed:
        keyed.fake.adapters = {"sql": "ab"}
        keyed.service.adapters = Loading(keyed.fake)
        free, narrow = await keyed.add("alice"), await keyed.add("bob", models=["sql"])
        async with keyed.http(narrow) as http:
            assert [one["id"] for one in (await http.get("/v1/models")).json()["data"]] == ["sql"]
            assert (await http.post("/v1/completions", json={"model": "sql", "prompt": "a"})).status_code == 200
            for body in ({"model": "demo", "prompt": "a"}, {"prompt": "a"}):
                reply = await http.post("/v1/completions", json=body)
                assert reply.status_code == 403, body
                assert "not for model 'demo'; it may use sql" in reply.json()["error"]["message"]
            for path, body in ELSEWHERE.items():
                reply = await http.post(path, json={**body, "model": "sql"})
                assert reply.status_code == 200, path
                for other in ("demo", "nobody's"):  # whether or not there is one
                    reply = await http.post(path, json={**body, "model": other})
                    assert reply.status_code == 403, path
                    assert f"not for model {other!r}" in reply.json()["error"]["message"]
            assert (await http.get("/v1/models/demo")).status_code == 403
            reply = await http.post(LOAD, json={"lora_name": "x", "lora_path": "/x"})
            assert reply.status_code == 403
            assert "is for models sql alone" in reply.json()["error"]["message"]
        async with keyed.http(free) as http:
            assert (await http.post(LOAD, json={"lora_name": "x", "lora_path": "/x"})).status_code == 200
            assert (await http.post("/v1/completions", json={"model": "x", "prompt": "a"})).status_code == 200
