"""Tools with the model that is fetched by name, through the real server: whatever it thinks of them, calls parse."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from baton.errors import BatonError
from cluster.models.find import find_model
from tests.cluster.served import ServedCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def function(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS: list[Any] = [
    function(
        "get_weather",
        "Tells how the weather of a city is.",
        city={"type": "string", "maxLength": 40},
        unit={"enum": ["celsius", "fahrenheit"]},
    ),
    function("add", "Adds two numbers.", a={"type": "number"}, b={"type": "number"}),
]
RUN = {"get_weather": lambda city, unit: f"24 degrees {unit} in {city}", "add": lambda a, b: str(a + b)}


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    try:
        find_model("smollm2")
    except BatonError as error:
        pytest.skip(error.message)
    cluster = ServedCluster("smollm2", extra="served_name: smollm2")
    cluster.up()
    try:
        with openai.OpenAI(base_url=f"{cluster.http}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        cluster.down()


def ask(client: openai.OpenAI, messages: list[Any], **more: Any) -> Any:
    return client.chat.completions.create(model="smollm2", messages=messages, tools=TOOLS, **more)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("question", ["How is the weather in Rome?", "What is 12 plus 30?"])
def test_a_loop_under_required_always_calls(client: openai.OpenAI, question: str, temperature: float) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    for turn in range(3):
        (choice,) = ask(
            client,
            messages,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=temperature,
            seed=turn,
            max_tokens=300,
        ).choices
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        result = RUN[call.function.name](**json.loads(call.function.arguments))  # any other name, or arguments, raises
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]


def test_the_first_call_is_the_right_one(client: openai.OpenAI) -> None:
    (choice,) = ask(
        client, [{"role": "user", "content": "What is 12 plus 30?"}], tool_choice="required", temperature=0, seed=0
    ).choices
    assert choice.message.tool_calls[0].function.name == "add"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"a": 12, "b": 30}


def test_a_named_function_is_streamed(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    text = ""
    for chunk in ask(client, [{"role": "user", "content": "Is it cold?"}], tool_choice=choice, stream=True):
        for part in chunk.choices[0].delta.tool_calls or ():
            text += part.function.arguments
    assert json.loads(text).keys() == {"city", "unit"}
