"""Calls as the official client gets them, streamed and whole."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.unit.ingress.chat.asking import USER, tool, written_call
from tests.unit.ingress.fakes import FakeDispatcher

TWO = f"Let me see.\n{written_call('Rome')}\n{written_call('Oslo')}"


async def ask(client: openai.AsyncOpenAI, **more: Any) -> Any:
    return await client.chat.completions.create(**({"model": "demo", "messages": [USER], "tools": [tool()]} | more))


async def streamed(client: openai.AsyncOpenAI, **more: Any) -> list[Any]:
    """The choices of all chunks."""
    return [choice async for chunk in await ask(client, stream=True, **more) for choice in chunk.choices]


async def test_a_whole_answer_has_its_calls(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    (choice,) = (await ask(client)).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    first, second = choice.message.tool_calls
    assert [json.loads(one.function.arguments) for one in (first, second)] == [{"city": "Rome"}, {"city": "Oslo"}]
    assert {one.function.name for one in (first, second)} == {"get_weather"}
    assert first.type == "function"
    assert first.id.startswith("call_")
    assert first.id != second.id


async def test_content_is_null_where_there_are_calls_alone(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = written_call("Rome")
    assert (await ask(client)).choices[0].message.content is None


async def test_a_stream_begins_each_call_with_its_name(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    choices = await streamed(client)
    parts = [part for choice in choices for part in choice.delta.tool_calls or ()]
    assert [part.index for part in parts] == sorted(part.index for part in parts)
    for index, city in enumerate(("Rome", "Oslo")):
        head, *rest = [part for part in parts if part.index == index]
        assert (head.function.name, head.function.arguments, head.type) == ("get_weather", "", "function")
        assert head.id.startswith("call_")
        assert all(part.id is None and part.function.name is None for part in rest)
        assert len(rest) > 2  # they come as they are written
        assert json.loads("".join(part.function.arguments for part in rest)) == {"city": city}
    assert "".join(choice.delta.content or "" for choice in choices) == "Let me see."
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]
    assert choices[0].delta.role == "assistant"


async def test_each_of_several_choices_has_calls_of_its_own(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = written_call("{choice}")
    reply = await ask(client, n=3)
    cities = [json.loads(one.message.tool_calls[0].function.arguments)["city"] for one in reply.choices]
    assert cities == ["0", "1", "2"]
    assert len({one.message.tool_calls[0].id for one in reply.choices}) == 3
    heads = [part for choice in await streamed(client, n=3) for part in choice.delta.tool_calls or () if part.id]
    assert len(heads) == 3
    assert {part.index for part in heads} == {0}


@pytest.mark.parametrize(
    "answer",
    ['<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>', "<tool_call>\nget_weather", "I call no one."],
)
async def test_what_is_no_call_is_text(client: openai.AsyncOpenAI, fake: FakeDispatcher, answer: str) -> None:
    fake.answer = answer
    (choice,) = (await ask(client)).choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (answer, None, "stop")
    assert "".join(one.delta.content or "" for one in await streamed(client)) == answer


async def test_an_answer_that_was_cut_says_so(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    assert (await ask(client, max_tokens=20)).choices[0].finish_reason == "length"
    assert (await streamed(client, max_tokens=20))[-1].finish_reason == "length"


async def test_without_parallel_calls_the_answer_ends_at_the_second(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.answer = TWO + " and much more text behind it" * 5
    reply = await ask(client, parallel_tool_calls=False)
    (choice,) = reply.choices
    assert [json.loads(one.function.arguments) for one in choice.message.tool_calls] == [{"city": "Rome"}]
    assert choice.finish_reason == "tool_calls"
    assert reply.usage.completion_tokens < 110  # it was not written to its end
    choices = await streamed(client, parallel_tool_calls=False)
    assert {part.index for choice in choices for part in choice.delta.tool_calls or ()} == {0}
    assert choices[-1].finish_reason == "tool_calls"


async def test_with_choice_none_nothing_is_looked_for(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    (choice,) = (await ask(client, tool_choice="none")).choices
    assert (choice.message.content, choice.finish_reason) == (TWO, "stop")


async def test_logprobs_cover_all_tokens_of_calls(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    whole = await ask(client, logprobs=True)
    entries = whole.choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries[:-1]).decode() == TWO
    parts = await streamed(client, logprobs=True)
    streamed_entries = [entry for one in parts if one.logprobs for entry in one.logprobs.content]
    assert [entry.token for entry in streamed_entries] == [entry.token for entry in entries]


async def test_the_clients_own_accumulator_joins_the_stream(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    async with client.chat.completions.stream(model="demo", messages=[USER], tools=[tool()]) as stream:
        kinds = {event.type async for event in stream}
        message = (await stream.get_final_completion()).choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert [json.loads(one.function.arguments)["city"] for one in message.tool_calls or ()] == ["Rome", "Oslo"]


class Weather(BaseModel):
    """Arguments of a function, as programs write them."""

    city: str


async def test_parse_gives_models_of_pydantic(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = written_call("Rome", name="Weather")
    reply = await client.chat.completions.parse(
        model="demo", messages=[USER], tools=[openai.pydantic_function_tool(Weather)]
    )
    (one,) = reply.choices[0].message.tool_calls or ()
    assert one.function.parsed_arguments == Weather(city="Rome")


async def test_a_chat_without_tools_is_read_by_nobody(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TWO
    (choice,) = (await ask(client, tools=openai.NOT_GIVEN)).choices
    assert (choice.message.content, choice.message.tool_calls) == (TWO, None)
