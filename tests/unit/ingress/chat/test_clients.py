"""Programs of others against a chat with tools: each is in the extra `clients`, and skipped where it is not there."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from tests.unit.ingress.chat.asking import written_call
from tests.unit.ingress.fakes import FakeDispatcher

ANSWER = "It is sunny in Rome."


class Weather(BaseModel):
    """How the weather is."""

    city: str


def get_weather(city: str) -> str:
    """Tells how the weather of a city is."""
    return f"sunny in {city}"


def chat_openai(url: str) -> Any:
    module = pytest.importorskip("langchain_openai")
    return module.ChatOpenAI(model="demo", base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_langchain_calls_a_bound_tool_and_goes_on(url: str, fake: FakeDispatcher) -> None:
    model = chat_openai(url)
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    fake.answer, fake.next_answers = written_call("Rome"), [ANSWER]
    bound = model.bind_tools([tool(get_weather)])
    asked = HumanMessage("How is the weather?")
    reply = await bound.ainvoke([asked])
    (call,) = reply.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    result = ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    assert (await bound.ainvoke([asked, reply, result])).content == ANSWER


async def test_langchain_joins_streamed_calls(url: str, fake: FakeDispatcher) -> None:
    model = chat_openai(url)
    from langchain_core.tools import tool

    fake.answer = f"{written_call('Rome')}\n{written_call('Oslo')}"
    joined = None
    async for chunk in model.bind_tools([tool(get_weather)]).astream("How is the weather?"):
        joined = chunk if joined is None else joined + chunk
    assert joined is not None
    assert [call["args"] for call in joined.tool_calls] == [{"city": "Rome"}, {"city": "Oslo"}]


async def test_langchain_gets_structured_output_by_a_call(url: str, fake: FakeDispatcher) -> None:
    fake.answer = written_call("Rome", name="Weather")
    model = chat_openai(url).with_structured_output(Weather, method="function_calling")
    assert await model.ainvoke("How is the weather?") == Weather(city="Rome")


async def test_langchain_gets_structured_output_by_a_schema(url: str, fake: FakeDispatcher) -> None:
    fake.answer = '{"city": "Rome"}'
    model = chat_openai(url).with_structured_output(Weather)
    assert await model.ainvoke("How is the weather?") == Weather(city="Rome")
    assert '"city"' in fake.requests[0].grammar


async def test_litellm_gets_calls(url: str, fake: FakeDispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    from tests.unit.ingress.chat.asking import USER, tool

    fake.answer = written_call("Rome")
    asked: dict[str, Any] = {
        "model": "hosted_vllm/demo",
        "api_base": f"{url}/v1",
        "messages": [USER],
        "tools": [tool()],
    }
    (call,) = (await litellm.acompletion(**asked)).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Rome"})
    chunks = [chunk async for chunk in await litellm.acompletion(**asked, stream=True)]
    (whole,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert json.loads(whole.function.arguments) == {"city": "Rome"}


async def test_pydantic_ai_runs_its_loop(url: str, fake: FakeDispatcher) -> None:
    ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    fake.answer, fake.next_answers = written_call("Rome"), [written_call("Rome", name="final_result")]
    model = OpenAIChatModel("demo", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    agent = ai.Agent(model, output_type=Weather, tools=[get_weather])
    result = await asyncio.wait_for(agent.run("How is the weather?"), 30)
    assert result.output == Weather(city="Rome")
    prompt = fake.requests[1].prompt_token_ids
    assert len(prompt) > len(fake.requests[0].prompt_token_ids)
