"""What one client sends, or is sent, at great length takes time by its length alone, and not the streams' of others."""

import json
import time
from typing import Any

import httpx
import pytest

from cluster.ingress.long_json import NUM_AT_ONCE, long_json
from cluster.ingress.structured.structural_tags import MAX_TAGS
from cluster.ingress.weight import MAX_CHARACTERS, MAX_VALUES, is_light

MANY = 30_000
CALLS = [{"id": str(number), "function": {"name": "f"}} for number in range(MANY)]
TOOLS = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(512)]
USER = {"role": "user", "content": "ab"}
TURNS = [USER, {"role": "system", "content": "b"}]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": None, "tool_calls": CALLS}]}),
    (
        "/v1/chat/completions",
        {
            "messages": [USER],
            "tools": TOOLS,
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOLS[-1]] * MANY}},
        },
    ),
    (
        "/v1/messages",
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 99}] * MANY}]},
    ),
    ("/v1/responses", {"input": [{"role": "user", "content": "a" * 99}] * MANY}),
    ("/v1/responses", {"input": TURNS * (MANY // 2)}),
    ("/v1/completions", {"prompt": "a", "p" * 1_000_000: 1}),
    ("/v1/responses", {"input": "a", "p" * 1_000_000: 1}),
]


@pytest.mark.parametrize(("path", "body"), BODIES, ids=range(len(BODIES)))
async def test_a_long_body_is_refused_soon_and_shortly(http: httpx.AsyncClient, path: str, body: Any) -> None:
    began_s = time.process_time()
    reply = await http.post(path, json=body)
    assert reply.status_code == 400
    assert len(reply.content) < 1_000
    assert time.process_time() - began_s < 5.0  # work that grows with the square took half a minute and more


async def test_more_tags_than_can_be_held_against_each_other_are_refused(http: httpx.AsyncClient) -> None:
    tag = {"structures": [{"begin": "a", "schema": {}}] * (MAX_TAGS + 1), "triggers": ["a"]}
    reply = await http.post("/v1/completions", json={"prompt": "a", "structured_outputs": {"structural_tag": tag}})
    assert "structural_tag.structures has 513 objects; send at most 512" in reply.json()["error"]["message"]


async def test_chats_on_a_thread_and_inline_are_the_same(http: httpx.AsyncClient) -> None:
    counts = []
    for text in ("a" * 900, "a" * 900 + " " * MAX_CHARACTERS):
        reply = await http.post("/tokenize", json={"messages": [{"role": "user", "content": text}]})
        counts.append(reply.json()["count"])
    assert 0 < counts[0] < counts[1]


def test_a_value_is_light_up_to_its_bounds() -> None:
    assert is_light({"a": ["x" * (MAX_CHARACTERS - 1)]})
    assert not is_light({"ab": ["x" * (MAX_CHARACTERS - 1)]})
    assert is_light([None] * (MAX_VALUES - 1))
    assert not is_light([None] * MAX_VALUES)
    assert not is_light({"a": [{}] * (MAX_VALUES - 1)})


@pytest.mark.parametrize("num_items", [0, 1, NUM_AT_ONCE, NUM_AT_ONCE + 1, 3 * NUM_AT_ONCE])
def test_long_json_is_the_library_s(num_items: int) -> None:
    choice = {"text": 'a"\ud800é', "logprobs": {"tokens": ["é"] * num_items, "top": [{"a": 1.5}] * num_items}}
    body = {
        "choices": [choice] * num_items,
        "usage": {},
        "prompt_logprobs": [None, {"5": {"a": []}}] * num_items,
        "content": [1, choice],
    }
    assert long_json(body) == json.dumps(body).encode()
