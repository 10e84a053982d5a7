"""OpenAI's client, unmodified, speaks /v1/responses."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from baton.errors import InternalError, OverloadedError
from cluster.ingress import typed_response
from tests.unit.ingress.agents.answers import CALL, RESPONSES_TOOLS, TEXT, THOUGHT, TIME
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer


async def test_an_answer_has_text_status_and_usage(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer, fake.num_cached_tokens = TEXT, 2
    reply = await client.responses.create(model="demo", input="Tell me", instructions="Be brief", metadata={"a": "b"})
    Response.model_validate(reply.to_dict())
    assert (reply.output_text, reply.status, reply.model, reply.object) == (TEXT, "completed", "demo", "response")
    assert (reply.instructions, reply.metadata, reply.error) == ("Be brief", {"a": "b"}, None)
    assert reply.usage is not None
    assert reply.usage.input_tokens == len(fake.requests[0].prompt_token_ids)
    assert reply.usage.input_tokens_details.cached_tokens == 2
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


async def test_events_come_in_order_numbered_and_fit_the_clients_types(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.answer = THOUGHT + "Look.\n" + CALL
    events = []
    async for event in await client.responses.create(input="Hi", model="demo", stream=True, tools=RESPONSES_TOOLS):
        type(event).model_validate(event.to_dict())
        events.append(event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [kind for kind, before in zip(names(events), ["", *names(events)], strict=False) if kind != before]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


def names(events: list[Any]) -> list[str]:
    return [event.type for event in events]


async def test_calls_are_streamed_and_their_results_read(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = f"{CALL}\n{TIME}"
    async with client.responses.stream(model="demo", input="Weather?", tools=RESPONSES_TOOLS) as stream:
        pieces = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        reply = await stream.get_final_response()
    calls = [item for item in reply.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("weather", {"city": "Paris", "days": 2}),
        ("time", {}),
    ]
    assert len(pieces) > 2
    assert calls[0].call_id != calls[1].call_id
    fake.answer = TEXT
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"} for call in calls]
    history: list[Any] = [{"role": "user", "content": "Weather?"}, *(item.to_dict() for item in reply.output), *results]
    answer = await client.responses.create(model="demo", input=history, tools=RESPONSES_TOOLS)
    assert answer.output_text == TEXT
    prompt = demo_tokenizer().decode(fake.requests[1].prompt_token_ids)
    assert "Paris" in prompt
    assert prompt.count("Sunny") == 2


async def test_thoughts_are_items_and_come_back_sealed_or_plain(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.answer = THOUGHT + TEXT
    reply = await client.responses.create(model="demo", input="Hi", include=["reasoning.encrypted_content"])
    thought, message = reply.output
    assert isinstance(thought, ResponseReasoningItem)
    assert isinstance(message, ResponseOutputMessage)
    assert thought.content is not None
    assert thought.content[0].text == "Paris it is."
    assert reply.output_text == TEXT
    assert reply.usage is not None
    assert 0 < reply.usage.output_tokens_details.reasoning_tokens < reply.usage.output_tokens
    sealed = {"type": "reasoning", "id": thought.id, "summary": [], "encrypted_content": thought.encrypted_content}
    history: list[Any] = [
        {"role": "user", "content": "Hi"},
        sealed,
        message.to_dict(),
        {"role": "user", "content": "?"},
    ]
    again = await client.responses.create(model="demo", input=history)
    assert again.output_text == TEXT


async def test_an_answer_at_its_limit_is_incomplete(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = TEXT
    reply = await client.responses.create(model="demo", input="Hi", max_output_tokens=2)
    assert (reply.status, reply.output_text) == ("incomplete", "The best")
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    kinds = [event.type async for event in await client.responses.create(input="Hi", max_output_tokens=2, stream=True)]
    assert kinds[-1] == "response.incomplete"


async def test_a_bound_above_what_fits_is_no_error(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    await client.responses.create(model="demo", input="Hi", max_output_tokens=10**6)
    assert fake.requests[0].sampling.max_tokens == 1024 - len(fake.requests[0].prompt_token_ids)


async def test_parse_gives_an_instance(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    class Place(BaseModel):
        city: str

    fake.answer = '{"city": "Paris"}'
    reply = await client.responses.parse(model="demo", input="Where?", text_format=Place)
    assert reply.output_parsed == Place(city="Paris")
    async with client.responses.stream(model="demo", input="Where?", text_format=Place) as stream:
        assert (await stream.get_final_response()).output_parsed == Place(city="Paris")


async def test_sampling_fields_reach_the_worker(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    reply = await client.responses.create(
        model="demo",
        input="Hi",
        temperature=0.5,
        top_p=0.25,
        max_output_tokens=7,
        top_logprobs=1,
        extra_body={"top_k": 5, "seed": 3, "stop": ["times"]},
    )
    sampling = fake.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.top_k) == (0.5, 0.25, 7, 5)
    assert (sampling.seed, sampling.logprobs) == (3, 1)
    assert (reply.temperature, reply.top_p, reply.output_text) == (0.5, 0.25, "The best of ")


async def test_logprobs_are_those_of_the_text(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = THOUGHT + "naïve 🙂"
    reply = await client.responses.create(model="demo", input="Hi", top_logprobs=2)
    message = reply.output[1]
    assert isinstance(message, ResponseOutputMessage)
    content = message.content[0]
    assert content.type == "output_text"
    assert content.logprobs
    assert bytes(byte for entry in content.logprobs for byte in entry.bytes).decode().strip() == "naïve 🙂"
    assert all(len(entry.top_logprobs) == 2 for entry in content.logprobs)


async def test_a_fault_ends_a_stream_as_failed_and_else_has_its_status(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.failure, fake.failure_after = InternalError("a worker broke"), 3
    events = [event async for event in await client.responses.create(model="demo", input="Hi", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.message == "a worker broke"
    assert events[-1].response.output_text == "The best of"
    fake.failure, fake.failure_after = OverloadedError("full", retry_after_s=3), None
    for stream in (True, False):
        with pytest.raises(openai.RateLimitError) as caught:
            await client.responses.create(model="demo", input="Hi", stream=stream)
        assert caught.value.response.headers["retry-after"] == "3"


async def test_a_long_wait_for_the_first_token_is_bridged(
    http: httpx.AsyncClient, fake: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typed_response, "PING_S", 0.05)
    fake.step_s = 0.3
    reply = await http.post("/v1/responses", json={"input": "Hi", "stream": True, "max_output_tokens": 1})
    assert ": waiting\n\n" in reply.text
    assert reply.text.index("response.in_progress") < reply.text.index(": waiting") < reply.text.index("output_item")


async def test_what_would_be_stored_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="stores no responses; keep what"):
        await client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError, match="stores no responses"):
        await client.responses.delete("resp_1")
    with pytest.raises(openai.NotFoundError, match="stores no responses"):
        await client.responses.cancel("resp_1")
    reply = await client.responses.create(model="demo", input="Hi", store=True)
    assert reply.to_dict()["store"] is False


async def test_tokens_are_counted(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    count = await client.responses.input_tokens.count(model="demo", input="Tell me", tools=RESPONSES_TOOLS)
    await client.responses.create(model="demo", input="Tell me", tools=RESPONSES_TOOLS)
    assert count.input_tokens == len(fake.requests[0].prompt_token_ids)


async def test_messages_become_turns(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    parts = [{"type": "input_text", "text": "Tell"}, {"type": "input_text", "text": "me"}]
    history: list[Any] = [
        {"role": "developer", "content": "In English"},
        {"role": "user", "content": parts},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Once", "annotations": []}],
        },
        {"role": "user", "content": "More"},
        {"role": "user", "content": "please"},
    ]
    await client.responses.create(model="demo", input=history, instructions="Be brief")
    prompt = demo_tokenizer().decode(fake.requests[0].prompt_token_ids)
    assert prompt == "Be brief\n\nIn English\nTell\nme\nOnce\nMore\n\nplease\n"


async def test_functions_of_a_namespace_are_called_by_it(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    group: Any = {"type": "namespace", "name": "sky", "description": "Of the sky", "tools": RESPONSES_TOOLS}
    fake.answer = CALL.replace("weather", "sky__weather")
    reply = await client.responses.create(model="demo", input="Hi", tools=[group, *RESPONSES_TOOLS])
    (call,) = reply.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.namespace, call.name) == ("sky", "weather")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    await client.responses.create(model="demo", input=[call.to_dict(), result], tools=[group])  # type: ignore[list-item]
    assert "sky__weather" in demo_tokenizer().decode(fake.requests[1].prompt_token_ids)
