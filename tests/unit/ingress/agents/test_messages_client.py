"""Anthropic's client, unmodified, speaks /v1/messages."""

from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock
from pydantic import BaseModel

from baton.errors import InternalError, OverloadedError, UnavailableError
from cluster.ingress import typed_response
from tests.unit.ingress.agents.answers import CALL, MESSAGES_TOOLS, TEXT, THOUGHT, TIME
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer

USER: Any = {"role": "user", "content": "Tell me"}


async def ask(claude: anthropic.AsyncAnthropic, *messages: Any, **fields: Any) -> Message:
    arguments = {"model": "demo", "max_tokens": 100, "messages": messages or (USER,), **fields}
    reply: Message = await claude.messages.create(**arguments)
    Message.model_validate(reply.to_dict())
    return reply


async def test_an_answer_has_text_reason_and_usage(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    fake.answer, fake.num_cached_tokens = TEXT, 2
    system: Any = [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}]
    reply = await ask(claude, system=system, metadata={"user_id": "one"})
    assert (reply.content[0], reply.stop_reason) == (TextBlock(type="text", text=TEXT), "end_turn")
    assert (reply.role, reply.type, reply.model) == ("assistant", "message", "demo")
    assert reply.id.startswith("msg_")
    assert reply.usage.input_tokens == len(fake.requests[0].prompt_token_ids) - 2
    assert reply.usage.cache_read_input_tokens == 2
    assert reply._request_id
    assert demo_tokenizer().decode(fake.requests[0].prompt_token_ids) == "Be brief\nTell me\n"


async def test_events_come_in_order_and_fit_the_clients_types(
    claude: anthropic.AsyncAnthropic, fake: FakeDispatcher
) -> None:
    fake.answer = THOUGHT + "Look.\n" + CALL
    kinds, deltas = [], []
    stream = await claude.messages.create(
        model="demo", max_tokens=100, messages=[USER], tools=MESSAGES_TOOLS, stream=True
    )
    async for event in stream:
        type(event).model_validate(event.to_dict())
        kinds.append(f"{event.type} {event.index}" if "block" in event.type else event.type)
        if event.type == "content_block_delta":
            deltas.append(event.delta.type)
    assert [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before] == [
        "message_start",
        *(f"content_block_{what} {index}" for index in range(3) for what in ("start", "delta", "stop")),
        "message_delta",
        "message_stop",
    ]
    in_order = [kind for kind, before in zip(deltas, ["", *deltas], strict=False) if kind != before]
    assert in_order == ["thinking_delta", "signature_delta", "text_delta", "input_json_delta"]


async def test_calls_are_streamed_and_their_results_read(
    claude: anthropic.AsyncAnthropic, fake: FakeDispatcher
) -> None:
    fake.answer = f"{CALL}\n{TIME}"
    async with claude.messages.stream(model="demo", max_tokens=100, messages=[USER], tools=MESSAGES_TOOLS) as stream:
        pieces = [event.partial_json async for event in stream if event.type == "input_json"]
        reply = await stream.get_final_message()
    assert reply.stop_reason == "tool_use"
    calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
    assert [(call.name, call.input) for call in calls] == [("weather", {"city": "Paris", "days": 2}), ("time", {})]
    assert len(pieces) > 2
    fake.answer = TEXT
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": "Sunny"},
        {
            "type": "tool_result",
            "tool_use_id": calls[1].id,
            "content": [{"type": "text", "text": "?"}],
            "is_error": True,
        },
        {"type": "text", "text": "Go on"},
    ]
    turns = (USER, {"role": "assistant", "content": reply.content}, {"role": "user", "content": results})
    assert (await ask(claude, *turns, tools=MESSAGES_TOOLS)).stop_reason == "end_turn"
    prompt = demo_tokenizer().decode(fake.requests[1].prompt_token_ids)
    assert all(text in prompt for text in ("Paris", "Sunny", "Error: ?", "Go on"))


async def test_thoughts_are_blocks_and_may_be_left_out(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    fake.answer = THOUGHT + TEXT
    reply = await ask(claude, thinking={"type": "enabled", "budget_tokens": 50})
    thought, text = reply.content
    assert isinstance(thought, ThinkingBlock)
    assert isinstance(text, TextBlock)
    assert (thought.thinking, text.text) == ("Paris it is.", TEXT)
    assert reply.usage.output_tokens_details is not None
    assert 0 < reply.usage.output_tokens_details.thinking_tokens < reply.usage.output_tokens
    again = await ask(claude, USER, {"role": "assistant", "content": reply.content}, USER)
    assert again.content == reply.content
    hidden = await ask(claude, thinking={"type": "adaptive", "display": "omitted"})
    assert isinstance(hidden.content[0], ThinkingBlock)
    assert (hidden.content[0].thinking, hidden.content[1:]) == ("", reply.content[1:])


async def test_stop_reasons_say_why(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    fake.answer = TEXT
    cut = await ask(claude, max_tokens=2)
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)
    stopped = await ask(claude, stop_sequences=["of", "x"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "of")
    assert stopped.content[0] == TextBlock(type="text", text="The best ")
    fake.answer = "word " * 2000
    full = await ask(claude, max_tokens=20_000)
    assert full.stop_reason == "model_context_window_exceeded"
    assert fake.requests[-1].sampling.max_tokens == 1024 - len(fake.requests[-1].prompt_token_ids)


async def test_parse_gives_an_instance(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    class Place(BaseModel):
        city: str

    fake.answer = '{"city": "Paris"}'
    reply = await claude.messages.parse(model="demo", max_tokens=50, messages=[USER], output_format=Place)
    assert reply.parsed_output == Place(city="Paris")


async def test_an_answer_goes_on_with_the_last_assistants_text(
    claude: anthropic.AsyncAnthropic, fake: FakeDispatcher
) -> None:
    await ask(claude, USER, {"role": "assistant", "content": "It was"})
    assert demo_tokenizer().decode(fake.requests[0].prompt_token_ids) == "Tell me\nIt was"


async def test_sampling_fields_reach_the_worker(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    await ask(claude, extra_body={"temperature": 0.5, "top_p": 0.25, "top_k": 5, "seed": 3})
    sampling = fake.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 0.25, 5, 3)


async def test_tokens_are_counted(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    count = await claude.messages.count_tokens(model="demo", messages=[USER], system="Brief", tools=MESSAGES_TOOLS)
    await ask(claude, system="Brief", tools=MESSAGES_TOOLS)
    assert count.input_tokens == len(fake.requests[0].prompt_token_ids)


async def test_a_fault_has_its_type_and_status(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    fake.failure = OverloadedError("full", retry_after_s=3)
    with pytest.raises(anthropic.RateLimitError) as shed:
        await ask(claude)
    assert shed.value.response.headers["retry-after"] == "3"
    assert shed.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index,call-overload]
    fake.failure = UnavailableError("no worker")
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        await ask(claude)
    fake.failure, fake.failure_after = InternalError("a worker broke"), 3
    with pytest.raises(anthropic.APIStatusError, match="a worker broke"):
        async for _ in await claude.messages.create(model="demo", max_tokens=9, messages=[USER], stream=True):
            pass
    with pytest.raises(anthropic.NotFoundError, match="this server serves"):
        await ask(claude, model="claude-opus")


async def test_the_beta_routes_of_the_client_work_too(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    fake.answer = TEXT
    reply = await claude.beta.messages.create(
        model="demo", max_tokens=20, messages=[USER], betas=["interleaved-thinking-2025-05-14"]
    )
    assert reply.content[0].to_dict()["text"] == TEXT


async def test_a_long_wait_has_pings(
    http: httpx.AsyncClient, fake: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typed_response, "PING_S", 0.05)
    fake.step_s = 0.3
    reply = await http.post("/v1/messages", json={"messages": [USER], "stream": True, "max_tokens": 1})
    assert reply.text.count('{"type":"ping"}') > 1
    assert reply.text.index("message_start") < reply.text.index("ping") < reply.text.index("content_block_start")
