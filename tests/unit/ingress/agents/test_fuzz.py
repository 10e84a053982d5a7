"""Bodies that are right but for one place, where anything stands: never a fault of ours."""

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.unit.ingress.agents.answers import MESSAGES_TOOLS, RESPONSES_TOOLS

NUM_BODIES = 100
RESPONSES_BODY: dict[str, Any] = {
    "model": "demo",
    "instructions": "Be brief",
    "input": [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "c"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "d"}]},
    ],
    "tools": [*RESPONSES_TOOLS, {"type": "namespace", "name": "n", "description": "", "tools": RESPONSES_TOOLS[:1]}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "text"}},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "max_output_tokens": 3,
    "temperature": 0.5,
    "top_logprobs": 1,
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "stream": False,
}
MESSAGES_BODY: dict[str, Any] = {
    "model": "demo",
    "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "b"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "c", "signature": "s"},
                {"type": "text", "text": "d"},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "e", "is_error": False}]},
    ],
    "tools": MESSAGES_TOOLS,
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2},
    "output_config": {"effort": "low"},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
    "max_tokens": 3,
    "temperature": 0.5,
    "stream": False,
}
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**70, "", "x", "\ud800", "\u0000", "function", [], {}, [None], [[]], {"type": None},
    {"type": []}, {"type": "text"}, {"": ""}, [1] * 50, "y" * 5000, {"a": {"b": {"c": []}}},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], odd)
    return copied


@pytest.mark.parametrize(("route", "body"), [("responses", RESPONSES_BODY), ("messages", MESSAGES_BODY)])
async def test_odd_values_are_answered_or_refused(route: str, body: dict[str, Any], http: httpx.AsyncClient) -> None:
    assert (await http.post(f"/v1/{route}", json=body)).status_code == 200
    draw = random.Random(13)
    every = list(places(body))
    for _ in range(NUM_BODIES):
        path, odd = draw.choice(every), draw.choice(ODD)
        reply = await http.post(f"/v1/{route}", content=json.dumps(changed(body, path, odd)))
        assert reply.status_code in (200, 400, 404), (path, odd, reply.text)
        if reply.status_code != 200:
            assert reply.json()["error"]["message"], (path, odd)
