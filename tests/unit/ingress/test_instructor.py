"""Instructor, unmodified, against the ingress: it asks for a model's schema and gives back an instance."""

import openai
import pytest
from pydantic import BaseModel

from cluster.ingress.structured.grammar import grammar_text
from cluster.ingress.structured.output import JsonSchema
from tests.unit.ingress.fakes import FakeDispatcher

instructor = pytest.importorskip("instructor")


class City(BaseModel):
    name: str
    population: int


async def test_instructor_gives_back_an_instance(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = '{"name": "Paris", "population": 2102650}'
    patched = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    city = await patched.chat.completions.create(
        model="demo", response_model=City, messages=[{"role": "user", "content": "A city"}], max_retries=0
    )
    assert isinstance(city, City)
    assert city.model_dump() == {"name": "Paris", "population": 2102650}  # of a class derived from City
    assert fake.requests[-1].grammar == grammar_text(JsonSchema(City.model_json_schema()))


async def test_instructor_asks_for_any_object(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = '{"name": "Paris", "population": 2102650}'
    patched = instructor.from_openai(client, mode=instructor.Mode.JSON)
    city = await patched.chat.completions.create(
        model="demo", response_model=City, messages=[{"role": "user", "content": "A city"}], max_retries=0
    )
    assert city.name == "Paris"
    assert fake.requests[-1].grammar == grammar_text(JsonSchema({"type": "object"}))
