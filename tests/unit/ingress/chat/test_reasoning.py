"""Thinking apart from content, with calls behind it, as clients get both."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import AddedToken

from cluster.ingress.service import Service
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.chat.asking import USER, tool, written_call
from tests.unit.ingress.fakes import FakeDispatcher, demo_service
from tests.unit.ingress.tokenizers import byte_level, save

SPECIAL = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
TEMPLATE = (
    "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% if opened %}<think>\n{% endif %}{# </think> <tool_call> #}"
)
THOUGHT = "<think>\nIs it cold?\n</think>\n\nIt is."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Of a model in whose vocabulary the marks are special tokens."""
    fast = byte_level()
    fast.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    folder: Path = tmp_path_factory.mktemp("thinking")
    return Tokenizer(str(save(fast, folder, json.dumps({"chat_template": TEMPLATE}))))


@pytest.fixture
def service_and_fake(tokenizer: Tokenizer) -> tuple[Service, FakeDispatcher]:
    return demo_service(tokenizer=tokenizer)


async def ask(client: openai.AsyncOpenAI, **more: Any) -> Any:
    return await client.chat.completions.create(**({"model": "demo", "messages": [USER]} | more))


async def streamed(client: openai.AsyncOpenAI, name: str, **more: Any) -> str:
    chunks = [chunk async for chunk in await ask(client, stream=True, **more)]
    return "".join(getattr(choice.delta, name, None) or "" for chunk in chunks for choice in chunk.choices)


async def test_thinking_is_split_off(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = THOUGHT
    reply = await ask(client)
    message = reply.choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == ("It is.", "Is it cold?", "Is it cold?")
    assert 4 < reply.usage.completion_tokens_details.reasoning_tokens < reply.usage.completion_tokens
    assert await streamed(client, "content") == "It is."
    assert await streamed(client, "reasoning_content") == await streamed(client, "reasoning") == "Is it cold?"


async def test_what_the_prompt_has_opened_is_thinking(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = THOUGHT.removeprefix("<think>\n")
    message = (await ask(client, extra_body={"chat_template_kwargs": {"opened": True}})).choices[0].message
    assert (message.content, message.reasoning) == ("It is.", "Is it cold?")


async def test_what_the_prompt_has_closed_is_none(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = "It is."
    message = (await ask(client, reasoning_effort="none")).choices[0].message
    assert message.content == "It is."
    assert not hasattr(message, "reasoning")


async def test_calls_come_behind_the_thinking(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = THOUGHT.removesuffix("It is.") + written_call("Rome")
    (choice,) = (await ask(client, tools=[tool()])).choices
    assert choice.message.reasoning == "Is it cold?"
    assert choice.message.content is None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Rome"}
    assert choice.finish_reason == "tool_calls"


async def test_a_request_can_do_without_the_thinking(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    fake.answer = THOUGHT
    message = (await ask(client, extra_body={"include_reasoning": False})).choices[0].message
    assert message.content == "It is."
    assert not hasattr(message, "reasoning")


async def test_special_tokens_that_are_no_part_of_a_format_stay_hidden(
    client: openai.AsyncOpenAI, fake: FakeDispatcher
) -> None:
    fake.answer = f"<think>a</think>b<|end|>c{written_call('Rome')}"
    message = (await ask(client)).choices[0].message
    assert message.content.startswith("bc\n{")  # without tools, marks of calls are hidden too
    assert (await ask(client, tools=[tool()])).choices[0].message.content == "bc"


async def test_over_grpc_a_chats_text_is_as_it_was(stub: Any, fake: FakeDispatcher) -> None:
    from baton.v1 import inference_pb2 as pb

    fake.answer = THOUGHT
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    responses = [response async for response in stub.Generate(pb.GenerateRequest(chat=chat))]
    text = "".join(delta.text for response in responses for delta in response.deltas)
    assert text == "\nIs it cold?\n\n\nIt is."
