"""What the routes make of requests for answers of a form: a grammar for the workers, or a refusal that names why."""

import json
from typing import Any

import grpc
import httpx
import openai
import pytest
from pydantic import BaseModel

from baton.v1 import inference_pb2, inference_pb2_grpc
from cluster.ingress.structured.grammar import grammar_text
from cluster.ingress.structured.output import Choice, JsonSchema, Regex, StructuredOutput
from tests.unit.ingress.fakes import FakeDispatcher

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "demo", "prompt": "Once"}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]

ASKED: list[tuple[dict[str, Any], StructuredOutput]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}, JsonSchema(SCHEMA)),
    ({"structured_outputs": {"choice": ["yes", "no"]}, "n": 2, "logprobs": None}, Choice(("yes", "no"))),
    ({"guided_regex": "[a-z]+", "stop": "x", "seed": 5}, Regex("[a-z]+")),
]


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_workers_are_sent_the_grammar(
    http: httpx.AsyncClient, fake: FakeDispatcher, route: str, body: dict[str, Any]
) -> None:
    for fields, form in ASKED:
        reply = await http.post(route, json=body | fields)
        assert reply.status_code == 200, reply.text
        assert fake.requests[-1].grammar == grammar_text(form)
        assert not fake.requests[-1].sampling.HasField("structured_output")
    reply = await http.post(route, json=body | {"response_format": {"type": "text"}})
    assert reply.status_code == 200
    assert fake.requests[-1].grammar == ""


async def test_a_streamed_answer_has_the_grammar_too(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    body = CHAT | {"stream": True, "guided_choice": ["a"]}
    reply = await http.post("/v1/chat/completions", json=body)
    assert reply.text.endswith("data: [DONE]\n\n")
    assert fake.requests[-1].grammar == grammar_text(Choice(("a",)))


class City(BaseModel):
    name: str
    population: int


QUESTION: list[Any] = [{"role": "user", "content": "A city"}]


async def test_openais_client_parses_a_pydantic_model(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = '{"name": "Paris", "population": {choice}}'
    completion = await client.chat.completions.parse(model="demo", messages=QUESTION, response_format=City, n=2)
    assert [one.message.parsed for one in completion.choices] == [
        City(name="Paris", population=0),
        City(name="Paris", population=1),
    ]
    closed = City.model_json_schema() | {"additionalProperties": False}  # as the client makes it for `strict`
    assert fake.requests[-1].grammar == grammar_text(JsonSchema(closed))


async def test_openais_client_streams_a_pydantic_model(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = '{"name": "Paris", "population": 1}'
    async with client.chat.completions.stream(model="demo", messages=QUESTION, response_format=City) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.parsed == City(name="Paris", population=1)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"guided_json": {"uniqueItems": True}}, "guided_json", "guided_json has $.uniqueItems true, and uniqueItems"),
    ({"guided_regex": "("}, "guided_regex", 'guided_regex is "(", which cannot be compiled'),
    (
        {"guided_json": {"type": "integer", "multipleOf": 123_456_789}},
        "guided_json",
        "guided_json takes longer than 2 s to compile (structured.compile_timeout_s): simplify it",
    ),
    ({"structured_outputs": {"grammar": 'start: "a" start'}}, "structured_outputs", "grammar never ends: each text of"),
    ({"structured_outputs": {"regex": r"[^\s\S]"}}, "structured_outputs", "allows nothing; send one that allows"),
    ({"guided_json": {"$ref": "#"}}, "guided_json", "guided_json never ends: what $ asks for"),
    ({"guided_json": {"enum": ["x" * 1_000_000]}}, "guided_json", "this server takes at most 65536 (structured.max_s"),
    ({"guided_json": deep(150)}, "guided_json", "guided_json is nested 301 levels deep; nest at most 100"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex and guided_choice ask for diff"),
]


@pytest.mark.parametrize(("fields", "field", "message"), BAD)
async def test_a_form_that_cannot_be_followed_is_a_400(
    http: httpx.AsyncClient, fake: FakeDispatcher, fields: dict[str, Any], field: str, message: str
) -> None:
    reply = await http.post("/v1/completions", json=COMPLETION | fields)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == field
    assert message in error["message"]
    assert not fake.requests


async def test_a_thousand_levels_are_a_400(http: httpx.AsyncClient) -> None:
    text = '{"properties":{"a":' * 1000 + "{}" + "}}" * 1000
    body = json.dumps(COMPLETION | {"guided_json": 0}).replace('"guided_json": 0', f'"guided_json": {text}')
    reply = await http.post("/v1/completions", content=body)
    assert reply.status_code == 400
    assert "nested" in reply.json()["error"]["message"]
    reply = await http.post("/v1/completions", json=COMPLETION | {"guided_json": text})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "guided_json is nested too deeply; nest less"


async def test_grpc_asks_for_a_form(stub: inference_pb2_grpc.InferenceStub, fake: FakeDispatcher) -> None:
    form = inference_pb2.StructuredOutput(json_schema=json.dumps(SCHEMA))
    sampling = inference_pb2.SamplingParams(structured_output=form, n=2)
    request = inference_pb2.GenerateRequest(prompt="Once", sampling=sampling)
    assert [message async for message in stub.Generate(request)]
    assert fake.requests[-1].grammar == grammar_text(JsonSchema(SCHEMA))
    assert not fake.requests[-1].sampling.HasField("structured_output")


async def test_grpc_refuses_a_form_by_name(stub: inference_pb2_grpc.InferenceStub) -> None:
    sampling = inference_pb2.SamplingParams(structured_output=inference_pb2.StructuredOutput(regex="("))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [message async for message in stub.Generate(inference_pb2.GenerateRequest(prompt="a", sampling=sampling))]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith('structured_output.regex is "(", which cannot be compiled')
    assert dict(caught.value.trailing_metadata())["baton-error-field"] == "structured_output"
