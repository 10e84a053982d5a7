"""The API's description says what the API does."""

import json
import re
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from baton.errors import InvalidRequestError
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.http_api import build_app
from cluster.ingress.openai import CompletionBody, DetokenizeBody, parse_body
from cluster.ingress.openapi.document import document
from cluster.ingress.openapi.operations import OPERATIONS
from cluster.ingress.sampling import Limits, check_options
from cluster.ingress.tokenize_body import TokenizeBody
from tests.unit.ingress.fakes import demo_service
from workers.model.sampling_params import ROWS

PROMPT: dict[str, Any] = {"prompt": "Once upon a time"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
BODIES = {CompletionBody: PROMPT, ChatBody: CHAT, TokenizeBody: PROMPT, DetokenizeBody: {"tokens": [1]}}


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    return jsonschema.Draft202012Validator(schema)


async def test_every_path_is_described_and_no_other() -> None:
    routes = {
        (route.path.replace("{name:path}", "{name}"), method.lower())  # type: ignore[attr-defined]
        for route in build_app(demo_service()[0]).routes
        for method in route.methods  # type: ignore[attr-defined]
        if "{rest:path}" not in route.path  # type: ignore[attr-defined]  # it says what to use instead
    }
    assert {(one.path, method) for one in OPERATIONS for method in one.methods} == routes


async def test_the_description_is_served_whole_and_refers_to_nothing_that_is_not_there(http: httpx.AsyncClient) -> None:
    reply = await http.get("/openapi.json")
    assert reply.json() == document()
    jsonschema.Draft202012Validator.check_schema({"$defs": document()["components"]["schemas"]})
    for name in re.findall(r'"#/components/schemas/([^"]+)"', reply.text):
        assert name in document()["components"]["schemas"]
    ids = [
        operation["operationId"]
        for item in document()["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
    ]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_every_field_that_a_body_takes_is_described_with_its_type(kind: Any) -> None:
    properties = document()["components"]["schemas"][kind.__name__]["properties"]
    assert kind.field_names() <= properties.keys()
    for name in kind.field_names():
        assert properties[name].keys() - {"description"}, name


def bad_and_good(name: str) -> list[tuple[Any, bool]]:
    """Values of a sampling field, and whether they are taken."""
    row = ROWS[name]
    values: list[Any] = [
        "5",
        True,
        1.5,
        3,
        [1],
        ["a"],
        {"5": 1},
        {"x": 1},
        {},
        -(10**9),
        10**12,
        0.5,
        None,
        "",
        "auto",
        [],
        [-1],
    ]
    for bound in (row.low, row.high, row.above):
        if abs(bound) != float("inf"):
            whole = row.kind is int
            values += [int(bound) if whole else bound, int(bound) + 1 if whole else bound + 0.5]
    return [(value, _is_taken(name, value)) for value in values]


def _is_taken(name: str, value: Any) -> bool:
    limits = Limits(max_model_len=1 << 40, max_request_tokens=1 << 40, vocab_size=1 << 40)
    try:
        check_options(parse_body(PROMPT | {"echo": True, name: value}, CompletionBody).options(), limits)
    except InvalidRequestError:
        return False
    return True


@pytest.mark.parametrize("name", ROWS)
def test_what_the_schema_of_a_sampling_field_takes_is_what_the_server_takes(name: str) -> None:
    check = validator("CompletionBody")
    for value, is_taken in bad_and_good(name):
        assert check.is_valid(PROMPT | {name: value}) is is_taken, (name, value)


def test_unknown_fields_and_missing_ones_are_no_part_of_a_body() -> None:
    for kind, body in BODIES.items():
        assert validator(kind.__name__).is_valid(body)
        assert not validator(kind.__name__).is_valid(body | {"temprature": 1})
    assert not validator("CompletionBody").is_valid({})
    assert not validator("ChatBody").is_valid({"messages": []})


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/completions", PROMPT, "Completion"),
        ("/v1/completions", PROMPT | {"n": 2, "logprobs": 3, "stop": "best"}, "Completion"),
        ("/v1/completions", PROMPT | {"max_tokens": 2, "logprobs": 0}, "Completion"),
        ("/v1/chat/completions", CHAT, "ChatCompletion"),
        ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2, "n": 2}, "ChatCompletion"),
        ("/tokenize", PROMPT, "Tokens"),
        ("/tokenize", CHAT | {"return_token_strs": True}, "Tokens"),
        ("/detokenize", {"tokens": [1, 2]}, "Text"),
        ("/v1/responses", {"input": "hi"}, "Response"),
        ("/v1/responses/input_tokens", {"input": "hi"}, "ResponseInputTokens"),
        ("/v1/messages", CHAT | {"max_tokens": 5}, "Message"),
        ("/v1/messages/count_tokens", CHAT, "MessageInputTokens"),
        ("/v1/messages", CHAT, "MessagesError"),
        ("/v1/completions", PROMPT | {"n": -1}, "Error"),
        ("/v1/nothing", {}, "Error"),
    ],
)
async def test_answers_have_the_shapes_that_are_described(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], name: str
) -> None:
    validator(name).validate((await http.post(path, json=body)).json())


@pytest.mark.parametrize(
    ("path", "name"),
    [("/v1/models", "Models"), ("/v1/models/demo", "Model"), ("/ping", "Health"), ("/version", "Version")],
)
async def test_what_answers_get_has_the_shape_that_is_described(http: httpx.AsyncClient, path: str, name: str) -> None:
    validator(name).validate((await http.get(path)).json())


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [("/v1/completions", PROMPT, "CompletionChunk"), ("/v1/chat/completions", CHAT, "ChatCompletionChunk")],
)
@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}, {"logprobs": 1}])
async def test_events_have_the_shapes_that_are_described(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], name: str, more: dict[str, Any]
) -> None:
    if "chat" in path and "logprobs" in more:
        more = {"logprobs": True, "top_logprobs": 1}
    reply = await http.post(path, json=body | more | {"stream": True})
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    assert events
    for event in events:
        validator(name).validate(json.loads(event))


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [("/v1/responses", {"input": "hi"}, "ResponseEvent"), ("/v1/messages", CHAT | {"max_tokens": 5}, "MessageEvent")],
)
async def test_typed_events_have_the_shapes_that_are_described(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], name: str
) -> None:
    reply = await http.post(path, json=body | {"stream": True})
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert len(events) > 3
    for event in events:
        validator(name).validate(json.loads(event))


async def test_the_page_shows_every_path_and_shape_and_asks_nobody_for_anything(http: httpx.AsyncClient) -> None:
    reply = await http.get("/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    for one in OPERATIONS:
        assert f"<code>{one.path}</code>" in reply.text
    for name in document()["components"]["schemas"]:
        assert f'id="{name}"' in reply.text
    assert "<script" not in reply.text
    assert not re.findall(r'(?:src|href)="(?!#|openapi\.json)', reply.text)


async def test_models_have_what_clients_read(client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    found = model.model_dump()
    assert (found["root"], found["parent"]) == ("demo", None)
    assert found["max_model_len"] == found["context_length"] == found["context_window"] == 2048
    assert found["permission"][0]["allow_sampling"] is True


async def test_tokenize_shows_tokens_as_the_vocabulary_writes_them(http: httpx.AsyncClient) -> None:
    reply = (await http.post("/tokenize", json=PROMPT | {"return_token_strs": True})).json()
    assert "".join(reply["token_strs"]).replace("\u0120", " ") == "Once upon a time"
    assert (await http.post("/tokenize", json=PROMPT)).json()["token_strs"] is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/embeddings", "embedding model"),
        ("/score", "embedding model"),
        ("/v1/audio/transcriptions", "text alone"),
        ("/v1/images/generations", "text alone"),
        ("/v1/files/file-1/content", "baton batch"),
        ("/v1/batches", "baton batch"),
        ("/v1/fine_tuning/jobs", "trains nothing"),
        ("/v1/threads", "/v1/chat/completions"),
        ("/v1/moderations", "/v1/chat/completions"),
        ("/invocations", "/v1/completions"),
    ],
)
async def test_what_other_servers_have_is_refused_by_name_with_what_to_use(
    http: httpx.AsyncClient, path: str, words: str
) -> None:
    reply = await http.post(path, json={})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_supported")
    assert words in reply.json()["error"]["message"]
