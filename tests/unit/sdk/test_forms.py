"""Keywords that say what form an answer must have, and instances made of answers."""

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

import baton
from baton.v1 import inference_pb2 as pb
from tests.grpc_server import FakeGrpcServer, written


class City(BaseModel):
    name: str
    population: int

    @field_validator("population")
    @classmethod
    def is_positive(cls, value: int) -> int:
        assert value > 0, "nobody lives there"
        return value


@pytest.fixture
def client(server: FakeGrpcServer) -> Any:
    with baton.Client(server.target, max_retries=0) as client:
        yield client


SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}


@pytest.mark.parametrize(
    ("keywords", "sent"),
    [
        ({"schema": SCHEMA}, pb.StructuredOutput(json_schema=json.dumps(SCHEMA))),
        ({"schema": "{}", "no_whitespace": True}, pb.StructuredOutput(json_schema="{}", no_whitespace=True)),
        ({"schema": True}, pb.StructuredOutput(json_schema="true")),
        ({"json_object": True}, pb.StructuredOutput(json_object=True)),
        ({"regex": "a+", "json_object": False, "choice": None}, pb.StructuredOutput(regex="a+")),
        ({"choice": ("yes", "no")}, pb.StructuredOutput(choice=pb.Choices(texts=["yes", "no"]))),
        ({"grammar": "start: A"}, pb.StructuredOutput(grammar="start: A")),
        ({"structural_tag": {"a": 1}}, pb.StructuredOutput(structural_tag='{"a": 1}')),
    ],
)
def test_a_form_reaches_the_server(
    client: baton.Client, server: FakeGrpcServer, keywords: dict[str, Any], sent: pb.StructuredOutput
) -> None:
    client.generate("Once", temperature=0.5, **keywords)
    assert server.requests[0].sampling == pb.SamplingParams(temperature=0.5, structured_output=sent)


def test_without_a_form_nothing_is_sent_of_one(client: baton.Client, server: FakeGrpcServer) -> None:
    client.generate("Once", schema=None, json_object=False, regex=None)
    assert server.requests[0].sampling == pb.SamplingParams()


def test_a_model_gives_back_an_instance(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append(written('{"name": "Paris", "population": 2102650}'))
    city: City = client.generate("A city", schema=City)
    assert city == City(name="Paris", population=2102650)
    sent = json.loads(server.requests[0].sampling.structured_output.json_schema)
    assert sent == City.model_json_schema() | {"additionalProperties": False}


def test_a_model_that_takes_more_than_its_fields_may_get_more(client: baton.Client, server: FakeGrpcServer) -> None:
    class Open(BaseModel, extra="allow"):
        inner: City

    server.scripts.append(written('{"inner": {"name": "Paris", "population": 1}, "more": 2}'))
    assert client.generate("A city", schema=Open).model_extra == {"more": 2}
    sent = json.loads(server.requests[0].sampling.structured_output.json_schema)
    assert sent["additionalProperties"] is True
    assert sent["$defs"]["City"]["additionalProperties"] is False


async def test_a_model_gives_back_an_instance_asynchronously(server: FakeGrpcServer) -> None:
    server.scripts.extend([written('{"name": "Paris", "population": 1}'), written('{"name": "Lyon", "population": 2}')])
    async with baton.AsyncClient(server.target) as client:
        city: City = await client.generate("A city", schema=City)
        assert city.name == "Paris"
        async with client.stream("A city", schema=City) as stream:
            assert (await stream.completion()).parse(City) == City(name="Lyon", population=2)


def test_an_answer_that_was_cut_off_is_no_instance(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append(written('{"name": "Par', pb.FINISH_REASON_LENGTH))
    with pytest.raises(
        baton.IncompleteAnswerError, match=r"after '{\"name\": \"Par' .* no whole City; raise max_"
    ) as caught:
        client.generate("A city", schema=City)
    assert caught.value.text == '{"name": "Par'


def test_what_a_schema_cannot_say_is_pydantics_error(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append(written('{"name": "Paris", "population": 0}'))
    with pytest.raises(ValidationError, match="nobody lives there"):
        client.generate("A city", schema=City)


@pytest.mark.parametrize(
    ("keywords", "field", "message"),
    [
        ({"schema": {}, "regex": "a"}, "schema", "regex and schema are given; an answer has one form: give one"),
        ({"schema": 5}, "schema", "schema is 5; it must be a JSON schema: a dict, its JSON text, or a pydantic model"),
        ({"schema": int}, "schema", "schema is <class 'int'>; it must be a JSON schema"),
        ({"schema": City, "n": 2}, "n", "n is 2, and with a model as schema generate gives back one instance"),
        ({"choice": "yes"}, "choice", "choice is 'yes'; it must be a list of texts"),
        ({"choice": [1]}, "choice", "choice is [1]; it must be a list of texts"),
        ({"regex": 5}, "regex", "regex is 5; it must be Unicode text"),
        ({"regex": "\ud800"}, "regex", "it must be Unicode text"),
        ({"no_whitespace": True}, "no_whitespace", "no_whitespace goes with schema or json_object; give one"),
    ],
)
def test_a_bad_form_is_refused_by_name(
    client: baton.Client, server: FakeGrpcServer, keywords: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(baton.InvalidRequestError) as caught:
        client.generate("Once", **keywords)
    assert caught.value.field == field
    assert message in caught.value.message
    assert not server.requests


def test_the_sdk_does_not_import_pydantic() -> None:
    code = "import sys, baton; baton.Client; baton.AsyncClient; baton.Options; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
