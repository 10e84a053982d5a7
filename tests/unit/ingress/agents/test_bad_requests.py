"""Bodies that are wrong get a 400 in their API's shape, which names the field, its value and what to do."""

import json
from typing import Any

import httpx

from cluster.config.schema import LimitsConfig
from cluster.ingress.http_api import build_app
from cluster.ingress.messages_api import body as messages_body
from cluster.ingress.responses_api import body as responses_body
from cluster.ingress.service import Service
from tests.unit.ingress.agents.answers import MESSAGES_TOOLS, RESPONSES_TOOLS
from tests.unit.ingress.fakes import FakeDispatcher, serving

USER: Any = {"role": "user", "content": "Hi"}
CALL: Any = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
USE: Any = {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}


def deep(levels: int) -> Any:
    schema: Any = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def tool(**fields: Any) -> Any:
    return {"tools": [{**RESPONSES_TOOLS[0], **fields}]}


def said(*blocks: Any, role: str = "user") -> Any:
    return {"messages": [USER, {"role": role, "content": list(blocks)}]}


RESPONSES: list[tuple[Any, str, str]] = [
    ({"input": None}, "input", "input is missing; send a string or a list of items"),
    ({"input": []}, "input", "input is an empty list; send at least one item"),
    ({"input": 5}, "input", "input is 5; it must be a list"),
    ({"input": [5]}, "input", "input[0] is 5; it must be an object"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input", 'input[0].role is "robot"; it must be one of assistant'),
    ({"input": [{"role": "user"}]}, "input", "input[0].content is missing; send it"),
    ({"input": [{"role": "user", "content": 5}]}, "input", "input[0].content is 5; it must be a string or a list"),
    ({"input": [USER | {"mood": 1}]}, "input", "input[0].mood is 1; this server does not support it"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input",
        'input[0].content[0].type is "input_image"; this server reads no images: describe it as input_text',
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input",
        "input[0].content[0].text is missing",
    ),
    ({"input": [{"role": "user", "content": [[]]}]}, "input", "input[0].content[0] is []; it must be an object"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "stores no items: send the item itself"),
    ({"input": [{"type": "web_search_call"}]}, "input", 'input[0].type is "web_search_call"; this server has no tools'),
    ({"input": [{"type": ["message"]}]}, "input", 'input[0].type is ["message"]; its type is the name'),
    ({"input": [{**CALL, "arguments": "{"}]}, "input", 'input[0].arguments is "{", which is not JSON'),
    ({"input": [{**CALL, "arguments": "[1]"}]}, "input", "it must be one JSON object, written as a string"),
    ({"input": [{**CALL, "arguments": {}}]}, "input", "input[0].arguments is {}; it must be a string"),
    ({"input": [{**CALL, "call_id": None}]}, "input", "input[0].call_id is missing; send it"),
    ({"input": [USER, CALL]}, "input", 'input has the call "c1" without its result; send its function_call_output'),
    ({"input": [CALL, CALL]}, "input", 'input[1].call_id is "c1", and so is an earlier call\'s'),
    (
        {"input": [{"type": "function_call_output", "call_id": "c9", "output": "x"}]},
        "input",
        'input[0].call_id is "c9", and no call before it has this id; send the call too',
    ),
    (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}]},
        "input",
        "input[0].encrypted_content is not one that this server has written",
    ),
    ({"input": "word " * 3000}, "input", "shorten it"),
    ({"instructions": ["a"]}, "instructions", 'instructions is ["a"]; it must be a string'),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "this server stores no conversations: send all items"),
    ({"conversation": "c"}, "conversation", "this server stores no conversations"),
    ({"prompt": {"id": "p"}}, "prompt", "this server stores no prompts"),
    ({"background": True}, "background", "background is true; this server answers while you wait"),
    ({"truncation": "auto"}, "truncation", 'truncation is "auto"; this server drops nothing'),
    ({"max_tokens": 5}, "max_tokens", "max_tokens is 5; this server calls it `max_output_tokens` here"),
    ({"prompt_logprobs": 5}, "prompt_logprobs", "prompt_logprobs is 5; this server gives them at /v1/completions"),
    ({"chat_template_kwargs": {"a": 1e400}}, "chat_template_kwargs", "has 1e400, which is too large a number"),
    ({"prompt_cache_key": 1e400}, "prompt_cache_key", "prompt_cache_key has 1e400, which is too large a number"),
    ({"max_output_tokens": -(10**1000)}, "max_output_tokens", "it must be at least 1"),
    ({"max_output_tokens": "5"}, "max_output_tokens", 'max_output_tokens is "5"; it must be a whole number'),
    ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens is 0; it must be at least 1"),
    ({"temperature": -1}, "temperature", "temperature is -1; it must be 0 (greedy) or more"),
    ({"temperature": "hot"}, "temperature", 'temperature is "hot"; it must be a number'),
    ({"top_logprobs": 21}, "top_logprobs", "top_logprobs is 21; it must be between 0 and 20"),
    ({"top_logprobs": True}, "top_logprobs", "top_logprobs is true; it must be a whole number"),
    ({"stop": 5}, "stop", "stop is 5; it must be a string or a list of strings"),
    ({"stream": "yes"}, "stream", 'stream is "yes"; it must be true or false'),
    ({"stream": False, "stream_options": {}}, "stream_options", "stream_options needs stream to be true"),
    ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options", "stream_options.include_usage is"),
    ({"include": ["file_search_call.results"]}, "include", 'include[0] is "file_search_call.results"; this server can'),
    ({"include": [{}]}, "include", "include[0] is {}; this server can include"),
    ({"metadata": {"a": 1}}, "metadata", 'metadata."a" is 1; keys have at most 64 characters'),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "metadata has 17 pairs; send at most 16"),
    ({"reasoning": {"effort": "huge"}}, "reasoning", 'reasoning.effort is "huge"; it must be one of high, low'),
    ({"reasoning": {"effort": ["low"]}}, "reasoning", 'reasoning.effort is ["low"]; it must be one of'),
    (
        {"reasoning": {"summary": "detailed"}},
        "reasoning",
        'reasoning.summary is "detailed"; this server sends thoughts',
    ),
    ({"text": {"verbosity": "low"}}, "text", 'text.verbosity is "low"; this server asks no model for one'),
    ({"text": {"format": {"type": "xml"}}}, "text", 'text.format.type is "xml"; it must be one of json_object'),
    ({"text": {"format": {"type": ["text"]}}}, "text", 'text.format.type is ["text"]; it must be one of'),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text", "text.format.name is missing; send it"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text", "text.format.schema is missing; send it"),
    ({"tools": {}}, "tools", "tools is {}; it must be a list"),
    (
        {"tools": [{"type": "web_search"}]},
        "tools",
        'tools[0].type is "web_search"; this server runs no tools of its own',
    ),
    (tool(name="a b"), "tools", 'tools[0].name is "a b"; use 1 to 128 letters'),
    (tool(name=None), "tools", "tools[0].name is null; use 1 to 128"),
    (tool(strict=1), "tools", "tools[0].strict is 1; it must be true or false"),
    (tool(parameters=[]), "tools", "tools[0].parameters is []; a JSON schema is an object"),
    (tool(parameters={"type": "string"}), "tools", 'tools[0].parameters.type is "string"; the arguments of a function'),
    (tool(parameters={"type": "thing"}), "tools", 'tools[0].parameters.type is "thing"; use one of'),
    (tool(parameters=deep(200)), "tools", "levels deep; nest at most"),
    (tool(defer_loading=True), "tools", "tools[0].defer_loading is true; this server does not support it"),
    ({"tools": [{"type": "namespace", "name": "a"}]}, "tools", "tools[0].tools is missing; send it"),
    ({"tools": [{"type": "namespace", "name": "a", "tools": [5]}]}, "tools", "tools[0].tools[0] is 5; it must be an"),
    (
        {"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "namespace"}]}]},
        "tools",
        'tools[0].tools[0].type is "namespace"; this server runs no tools',
    ),
    ({"tools": RESPONSES_TOOLS * 2}, "tools", 'tools[2] has the name "weather" again'),
    ({"tool_choice": "required"}, "tool_choice", 'tool_choice is "required" and there are no tools'),
    ({"tool_choice": "maybe"}, "tool_choice", 'tool_choice is "maybe"; it must be one of auto, none, required'),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice", 'tool_choice.type is "file_search"; this server runs no'),
    ({"tool_choice": {"type": ["function"]}}, "tool_choice", 'tool_choice.type is ["function"]; this server runs no'),
    (
        {"tools": RESPONSES_TOOLS, "tool_choice": {"type": "function", "name": "sing"}},
        "tool_choice",
        'tool_choice names "sing", which is not in tools; name one of weather, time',
    ),
    (
        {"tools": RESPONSES_TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        "tool_choice",
        "tool_choice.tools is an empty list; name a function",
    ),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", "parallel_tool_calls is 1; it must be true or false"),
    ({"n": 2}, "n", "n is 2; this server gives one answer to a request here"),
    ({"modl": "demo"}, "modl", '"modl" is not a field of this request; did you mean model?'),
    ({"frobnicate": 1}, "frobnicate", '"frobnicate" is not a field of this request; leave it out'),
    ({"model": 5}, "model", "model is 5; it must be a string"),
    ({"chat_template": "other"}, "chat_template", 'chat_template is "other"; it names one of'),
    (
        {"chat_template_kwargs": {"messages": 1}},
        "chat_template_kwargs",
        "chat_template_kwargs.messages is the request's",
    ),
]
MESSAGES: list[tuple[Any, str]] = [
    ({"prompt_logprobs": 5}, "prompt_logprobs is 5; this server gives them at /v1/completions"),
    ({"max_tokens": -(10**1000)}, "it must be at least 1"),
    ({"messages": None}, "messages is missing; send at least one"),
    ({"messages": []}, "messages is empty; send at least one message"),
    ({"messages": "Hi"}, 'messages is "Hi"; it must be a list'),
    ({"messages": [5]}, "messages[0] is 5; it must be an object"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 'messages[0].role is "tool"; it must be one of assistant'),
    ({"messages": [{"role": ["user"], "content": "a"}]}, 'messages[0].role is ["user"]; it must be one of assistant'),
    ({"messages": [{"role": "user"}]}, "messages[0].content is missing; send a string or a list of blocks"),
    ({"messages": [USER | {"name": "x"}]}, 'messages[0].name is "x"; this server does not support it'),
    (said({"type": "image", "source": {}}), 'messages[1].content[0].type is "image"; this server reads no images'),
    (said({"type": "document"}), "this server reads no documents: send their text as a text block"),
    (said({"type": "web_search_tool_result"}), "this server has no tools of its own"),
    (said({"type": 5}), "messages[1].content[0].type is 5; its type is the name of a kind of block"),
    (said({"type": "text"}), "messages[1].content[0].text is missing; send it"),
    (said({"type": "text", "text": 5}), "messages[1].content[0].text is 5; it must be a string"),
    (said(USE), 'messages[1].content[0].type is "tool_use"; a message of role user has no such blocks'),
    (said(USE, role="assistant"), 'messages has the call "c1" without its result; send its tool_result'),
    (said({**USE, "input": "{}"}, role="assistant"), 'messages[1].content[0].input is "{}"; it must be an object'),
    (
        said({"type": "thinking", "thinking": "a", "signature": "s"}, role="assistant"),
        "messages ends with an assistant",
    ),
    (said({"type": "redacted_thinking", "data": "x"}, role="assistant"), "another server has encrypted it: leave the"),
    (
        said({"type": "tool_result", "tool_use_id": "c9", "content": "x"}),
        'messages[1].content[0].tool_use_id is "c9", and no call before it has this id; send the call too',
    ),
    ({"max_tokens": None}, "max_tokens is missing; send how long the answer may be"),
    ({"max_tokens": "5"}, 'max_tokens is "5"; it must be a whole number'),
    ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
    ({"system": 5}, "system is 5; it must be a string or a list of text blocks"),
    ({"system": [{"type": "image"}]}, 'system[0].type is "image"; this server reads no images'),
    ({"stop_sequences": "x"}, 'stop_sequences is "x"; it must be a list'),
    ({"stop_sequences": [1]}, "stop_sequences[0] is 1; it must be a string"),
    ({"temperature": 1e400}, "temperature"),
    ({"top_k": "5"}, 'top_k is "5"; it must be a whole number'),
    ({"stream": 1}, "stream is 1; it must be true or false"),
    ({"metadata": {"who": "me"}}, 'metadata.who is "me"; this server does not support it'),
    ({"metadata": {"user_id": 1}}, "metadata.user_id is 1; it must be a string"),
    ({"thinking": {"type": "hard"}}, 'thinking.type is "hard"; it must be one of adaptive, disabled, enabled'),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing; send it"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens is 0; it must be at least 1"),
    ({"thinking": {"type": "enabled", "budget_tokens": 99}}, "thinking.budget_tokens is 99, and max_tokens is 20"),
    ({"thinking": {"type": "adaptive", "budget_tokens": 9}}, "thinking.budget_tokens is 9; this server does not"),
    ({"thinking": {"type": "adaptive", "display": "all"}}, 'thinking.display is "all"; it must be one of omitted'),
    ({"output_config": {"effort": "none"}}, 'output_config.effort is "none"; it must be one of high, low'),
    (
        {"output_config": {"format": {"type": "xml"}}},
        'output_config.format.type is "xml"; it must be one of json_schema',
    ),
    ({"output_format": {"type": "json_schema"}}, "output_format.schema is missing; send it"),
    (
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
        'tools[0].type is "bash_20250124"; this server has no tools',
    ),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema is missing; send it"),
    ({"tools": [{"name": "a", "input_schema": {"type": "string"}}]}, "the arguments of a function are an object"),
    ({"tools": [{"name": "a", "input_schema": {"type": 5}}]}, "tools[0].input_schema.type is 5; use one of"),
    ({"tools": [{"name": "a", "input_schema": deep(200)}]}, "levels deep; nest at most"),
    ({"tools": MESSAGES_TOOLS * 2}, 'tools[2] has the name "weather" again'),
    (
        {"tools": [{**MESSAGES_TOOLS[0], "input_examples": [{}]}]},
        "tools[0].input_examples is [{}]; this server does not",
    ),
    ({"tool_choice": "auto"}, 'tool_choice is "auto"; it must be an object'),
    ({"tool_choice": {"type": "all"}}, 'tool_choice.type is "all"; it must be one of any, auto, none, tool'),
    ({"tool_choice": {"type": "any"}}, "there are no tools; send tools"),
    ({"tools": MESSAGES_TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice.name is missing; send it"),
    ({"tools": MESSAGES_TOOLS, "tool_choice": {"type": "tool", "name": "sing"}}, 'tool_choice names "sing", which is'),
    ({"container": "c"}, 'container is "c"; this server runs no code'),
    ({"mcp_servers": [{}]}, "mcp_servers is [{}]; this server calls no servers"),
    ({"context_management": {"edits": [{"type": "x"}]}}, "this server leaves conversations as they are"),
    ({"stop": "x"}, 'stop is "x"; this server calls it `stop_sequences` here'),
    ({"n": 2}, "n is 2; this server gives one answer"),
    ({"max_token": 5}, '"max_token" is not a field of this request; did you mean max_tokens?'),
]


async def test_bad_bodies_of_responses(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    for index, (body, field, message) in enumerate(RESPONSES):
        reply = await http.post("/v1/responses", content=dumps({"input": "Hi", "stream": bool(index % 2), **body}))
        assert reply.status_code == 400, body
        error = reply.json()["error"]
        assert message in error["message"], error
        assert (error["param"], error["type"]) == (field, "invalid_request_error"), error
    assert not fake.requests


async def test_bad_bodies_of_messages(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    for index, (body, message) in enumerate(MESSAGES):
        sent = {"messages": [USER], "max_tokens": 20, "stream": bool(index % 2), **body}
        reply = await http.post("/v1/messages", content=dumps(sent))
        assert reply.status_code == 400, body
        answer = reply.json()
        assert (answer["type"], answer["error"]["type"]) == ("error", "invalid_request_error")
        assert message in answer["error"]["message"], answer
        assert answer["request_id"] == reply.headers["request-id"]
    assert not fake.requests


def dumps(body: Any) -> bytes:
    """JSON with Infinity as 1e400, which is valid and no finite number."""
    return json.dumps(body).replace("Infinity", "1e400").encode()


def test_what_is_wrong_with_a_form_is_said_of_the_field_that_asks_for_it() -> None:
    form = {"type": "json_schema", "schema": {}}
    response = responses_body.parse_body({"input": "Hi", "text": {"format": {**form, "name": "a"}}})
    message = messages_body.parse_body({"messages": [USER], "max_tokens": 1, "output_config": {"format": form}})
    any_object = responses_body.parse_body({"input": "Hi", "text": {"format": {"type": "json_object"}}})
    named = [one.chat.structured.named for one in (response, message, any_object) if one.chat.structured is not None]
    assert named == ["text.format.schema", "output_config.format.schema", "text.format"]


async def test_counting_takes_what_bears_on_answers_alone(http: httpx.AsyncClient) -> None:
    body = {"messages": [USER], "max_tokens": 5, "temperature": 1, "stream": False, "metadata": {"user_id": "x"}}
    reply = await http.post("/v1/messages/count_tokens", json=body)
    assert reply.status_code == 200
    reply = await http.post("/v1/messages/count_tokens", json={"messages": [USER], "frobnicate": 1})
    assert reply.status_code == 400


async def test_what_asks_for_nothing_is_taken(http: httpx.AsyncClient) -> None:
    off: dict[str, Any] = {
        "background": False,
        "conversation": None,
        "include": [],
        "max_tool_calls": 3,
        "parallel_tool_calls": True,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "service_tier": "auto",
        "store": True,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
        "user": "u",
    }
    assert (await http.post("/v1/responses", json={"input": "Hi", **off})).status_code == 200
    off = {
        "betas": ["x"],
        "cache_control": {"type": "ephemeral"},
        "container": None,
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "mcp_servers": [],
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "speed": "standard",
        "thinking": {"type": "disabled"},
        "tool_choice": {"type": "auto"},
        "tools": [],
    }
    reply = await http.post("/v1/messages?beta=true", json={"messages": [USER], "max_tokens": 5, **off})
    assert reply.status_code == 200


async def test_other_faults_below_messages_have_its_shape(http: httpx.AsyncClient) -> None:
    for reply in (
        await http.post("/v1/messages", content=b"{"),
        await http.get("/v1/messages"),
        await http.post("/v1/messages/batches", json={}),
    ):
        assert reply.status_code in (400, 404, 405)
        assert reply.json()["type"] == "error"
        assert reply.json()["error"]["type"] in ("invalid_request_error", "not_found_error")
    reply = await http.post("/v1/messagesx", json={})
    assert reply.json()["error"]["code"] == "not_found"


async def test_a_body_over_the_limit_has_its_apis_shape(service: Service) -> None:
    async with (
        serving(build_app(service, LimitsConfig(max_body_bytes=100))) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        reply = await http.post("/v1/messages", content=b"a" * 200)
        assert (reply.status_code, reply.json()["error"]["type"]) == (413, "request_too_large")
        reply = await http.post("/v1/responses", content=b"a" * 200)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
