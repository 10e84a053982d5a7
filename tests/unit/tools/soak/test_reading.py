"""Of each API, whole answers and streams become the same Answer."""

import json
from typing import Any

import pytest

from tools.soak.ask import Answer, Said
from tools.soak.reading import Reader

USAGE = {"completion_tokens": 2}
WHOLE: dict[str, dict[str, Any]] = {
    "completions": {"choices": [{"index": 0, "text": "ab", "finish_reason": "length"}], "usage": USAGE},
    "chat": {
        "choices": [{"index": 0, "message": {"content": "ab", "tool_calls": None}, "finish_reason": "length"}],
        "usage": USAGE,
    },
    "responses": {
        "status": "incomplete",
        "incomplete_details": {"reason": "length"},
        "output": [{"type": "message", "content": [{"text": "ab"}]}],
        "usage": {"output_tokens": 2},
    },
    "messages": {
        "type": "message",
        "content": [{"type": "text", "text": "ab"}],
        "stop_reason": "length",
        "usage": {"output_tokens": 2},
    },
}
STREAMS: dict[str, list[Any]] = {
    "completions": [
        {"choices": [{"index": 0, "text": "a", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}]},
        {"choices": [], "usage": USAGE},
        "[DONE]",
    ],
    "chat": [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "ab"}, "finish_reason": "length"}], "usage": USAGE},
        "[DONE]",
    ],
    "responses": [
        {"type": "response.created", "response": {}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.output_text.delta", "delta": "b"},
        {"type": "response.incomplete", "response": WHOLE["responses"]},
    ],
    "messages": [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ab"}},
        {"type": "message_delta", "delta": {"stop_reason": "length"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ],
}


def read(api: str, events: list[Any]) -> Reader:
    reader = Reader(api)
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        reader.event(data, None if isinstance(event, str) else event)
    return reader


@pytest.mark.parametrize("api", WHOLE)
def test_whole_and_streamed_are_the_same_answer(api: str) -> None:
    whole = Reader(api)
    whole.whole(WHOLE[api])
    streamed = read(api, STREAMS[api])
    wanted = Answer(choices=(Said(text="ab", finish="length"),), num_tokens=2)
    assert whole.answer() == streamed.answer() == wanted
    assert whole.is_whole
    assert streamed.is_whole


@pytest.mark.parametrize("api", STREAMS)
def test_a_stream_without_its_last_event_is_not_whole(api: str) -> None:
    assert not read(api, STREAMS[api][:-1]).is_whole


def test_choices_come_in_any_order_and_keep_their_places() -> None:
    reader = read("completions", [{"choices": [{"index": 1, "text": "b"}]}, {"choices": [{"index": 0, "text": "a"}]}])
    assert [said.text for said in reader.answer().choices] == ["a", "b"]


def test_calls_are_the_same_however_their_arguments_are_written() -> None:
    call = {"index": 0, "id": "x", "function": {"name": "forecast", "arguments": ""}}
    pieces = ['{"days": 3, ', '"city": "Oslo"}']
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}]
    events += [
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}}]}
        for piece in pieces
    ]
    other = Reader("messages")
    used = {"type": "tool_use", "name": "forecast", "input": {"city": "Oslo", "days": 3}}
    other.whole({"type": "message", "content": [used], "stop_reason": "", "usage": {"output_tokens": 1}})
    assert read("chat", events).answer().choices[0].calls == other.answer().choices[0].calls


def test_an_error_within_a_stream_is_kept() -> None:
    assert "no worker" in read("chat", [{"error": {"message": "no worker"}}]).error


def test_deltas_that_do_not_add_up_to_the_last_event_are_an_error() -> None:
    assert "the deltas add up to 'b'" in read("responses", STREAMS["responses"][2:]).error
