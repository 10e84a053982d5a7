"""Every refusal of tools, choices and results names the field, the value and the fix."""

from typing import Any

import httpx
import pytest

from baton.errors import InvalidRequestError
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.openai import parse_body
from tests.unit.ingress.chat.asking import SCHEMA, USER, assistant, call, result, tool
from tests.unit.ingress.fakes import FakeDispatcher


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


BAD_TOOLS: list[tuple[Any, str]] = [
    ("x", 'tools is "x"; it must be a list'),
    (["x"], 'tools[0] is "x"; send {"type": "function", "function": {...}}'),
    ([{"type": "function"}], "tools[0].function is null; send an object with name and parameters"),
    ([{"type": "web_search"}], 'tools[0].type is "web_search"; this server knows tools of type function alone'),
    ([tool(), tool()], 'tools[1] has the name "get_weather" again; give each function its own name'),
    ([tool(name="")], 'tools[0].function.name is ""; use 1 to 128 letters, digits'),
    ([tool(name="get weather")], 'tools[0].function.name is "get weather"; use 1 to 128'),
    ([tool(name="x" * 129)], "tools[0].function.name is "),
    ([tool(f"f{index}") for index in range(513)], "tools has 513 functions; send at most 512"),
    ([tool(strict=1)], "tools[0].function.strict is 1; it must be true or false"),
    ([tool(description=1)], "tools[0].function.description is 1; it must be a string"),
    ([tool(returns={})], "tools[0].function.returns is not a field of a function; leave it out"),
    ([tool(parameters="x")], 'tools[0].function.parameters is "x"; a JSON schema is an object'),
    ([tool(parameters=True)], "tools[0].function.parameters is true; send the JSON schema of an object"),
    ([tool(parameters={"type": "array"})], 'parameters.type is "array"; the arguments of a function are an object'),
    ([tool(parameters={"type": "dict"})], 'parameters.type is "dict"; use one of array, boolean,'),
    ([tool(parameters={"properties": ["a"]})], 'parameters.properties is ["a"]; it must be an object of schemas'),
    ([tool(parameters={"properties": {"a": 1}})], "parameters.properties.a is 1; a JSON schema is an object"),
    ([tool(parameters={"properties": {"a": {"enum": "b"}}})], 'properties.a.enum is "b"; it must be a list of values'),
    ([tool(parameters={"required": "a"})], 'parameters.required is "a"; it must be a list of names'),
    ([tool(parameters={"properties": {"a": {"anyOf": []}}})], "properties.a.anyOf is []; it must be a list of schemas"),
    ([tool(parameters={"properties": {"a": {"items": [1]}}})], "properties.a.items[0] is 1; a JSON schema is an"),
    ([tool(parameters={"properties": {"a": {"maxLength": -1}}})], "a.maxLength is -1; it must be a whole number"),
    ([tool(parameters={"properties": {"a": {"pattern": 1}}})], "properties.a.pattern is 1; it must be a string"),
    ([tool(parameters={"additionalProperties": 1})], "parameters.additionalProperties is 1; a JSON schema is"),
    ([tool(parameters=deep(80))], "lies 65 levels deep; nest at most 64"),
]

BAD_CHOICES: list[tuple[Any, str]] = [
    ("any", 'tool_choice is "any"; use none, auto, required,'),
    (1, "tool_choice is 1; use none, auto, required,"),
    ({"type": "custom"}, 'tool_choice is {"type": "custom"}; use none'),
    ({"type": "function"}, 'tool_choice is {"type": "function"}; send {"type": "function", "function": {"name": ...}}'),
    (
        {"type": "function", "function": {"name": "now"}},
        'tool_choice names "now", which is not in tools; name one of get_weather',
    ),
    ({"type": "allowed_tools"}, "tool_choice.allowed_tools is null; send an object with mode and tools"),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "x"}}, 'allowed_tools.mode is "x"; use auto or required'),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        "tool_choice.allowed_tools.tools is []; name at least one function",
    ),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "name": "now"}]}},
        'tool_choice names "now", which is not in tools',
    ),
]

BAD_MESSAGES: list[tuple[list[Any], str]] = [
    ([USER, result()], 'messages[1].tool_call_id is "call_1", and no assistant message before it made that call: send'),
    ([USER, assistant(call()), result("call_2")], 'messages[2].tool_call_id is "call_2", and no assistant message'),
    ([USER, assistant(call()), result("call_2")], "first; the last calls: call_1"),
    ([USER, assistant(call()), result(None)], "messages[2].tool_call_id is null"),
    ([USER, assistant(call()), result(content=None)], "messages[2].content is null; send a string or a list of text"),
    ([USER, assistant(call(), call())], 'messages[1].tool_calls[1].id is "call_1" again; give each call its own id'),
    ([USER, assistant(call(call_id=1))], "messages[1].tool_calls[0].id is 1; send the id that the call came with"),
    ([USER, assistant(call(name=None))], "messages[1].tool_calls[0].function.name is null; send the function's name"),
    ([USER, assistant(call(arguments="{"))], 'tool_calls[0].function.arguments is "{", which is not JSON ('),
    ([USER, assistant(call(arguments="[1]"))], 'arguments is "[1]"; send the JSON text of an object'),
    ([USER, assistant(call(arguments=5))], "arguments is 5; send the JSON text of an object"),
    ([USER, assistant({"id": "a", "type": "custom"})], 'tool_calls[0].type is "custom"; this server knows calls of'),
    ([USER, assistant({"id": "a", "function": "x"})], 'tool_calls[0].function is "x"; send an object with name and'),
    ([USER, assistant({**call(), "colour": 1})], "messages[1].tool_calls[0].colour is not a field of a call"),
    ([USER, assistant("x")], 'messages[1].tool_calls[0] is "x"; send an object with id, type and function'),  # type: ignore[arg-type]
    ([USER, {"role": "assistant", "tool_calls": "x"}], 'messages[1].tool_calls is "x"; send a list of calls'),
    ([USER, {"role": "assistant", "content": None}], "messages[1].content is null; send a string"),
    ([USER, {"role": "assistant", "content": "a", "reasoning": 1}], "messages[1].reasoning is 1; it must be a string"),
    ([{**USER, "tool_calls": [call()]}], "messages[0].tool_calls is [{"),
    ([{**USER, "tool_calls": [call()]}], "it is not a field of a message of role user: leave it out"),
    ([{**USER, "tool_call_id": "a"}], 'messages[0].tool_call_id is "a"; it is not a field of a message of role user'),
    ([{**USER, "audio": {"id": 1}}], "messages[0].audio is {"),
    ([USER, {"role": "function", "name": "now", "content": "x"}], 'messages[1].name is "now", and the assistant'),
    ([USER, {"role": "assistant", "function_call": "x"}], 'messages[1].function_call is "x"; send an object'),
    (
        [USER, assistant(call(), function_call={"name": "now", "arguments": ""})],
        "messages[1] has function_call and tool_calls; send tool_calls alone",
    ),
]

BAD_REST: list[tuple[dict[str, Any], str, str]] = [
    ({"tool_choice": "required"}, "tool_choice", 'tool_choice is "required" and there are no tools; send tools'),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice",
        'tool_choice names "f", which is not in tools; send that function in tools',
    ),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", "parallel_tool_calls is 1; it must be true or false"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "chat_template_kwargs is []; it must be an object"),
    ({"continue_final_message": 1}, "continue_final_message", "continue_final_message is 1; it must be true or false"),
    (
        {"continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
        "add_generation_prompt is true and so is continue_final_message",
    ),
]


def refusal(change: dict[str, Any]) -> tuple[str, str]:
    """The field and the message."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_body({"messages": [USER]} | change, ChatBody).request()
    return caught.value.field or "", caught.value.message


@pytest.mark.parametrize(("tools", "message"), BAD_TOOLS)
def test_bad_tools_are_refused(tools: Any, message: str) -> None:
    field, said = refusal({"tools": tools})
    assert field == "tools"
    assert message in said


@pytest.mark.parametrize(("choice", "message"), BAD_CHOICES)
def test_a_bad_choice_is_refused(choice: Any, message: str) -> None:
    field, said = refusal({"tools": [tool()], "tool_choice": choice})
    assert field == "tool_choice"
    assert message in said


@pytest.mark.parametrize(("messages", "message"), BAD_MESSAGES)
def test_bad_calls_and_results_are_refused(messages: list[Any], message: str) -> None:
    field, said = refusal({"messages": messages, "tools": [tool()]})
    assert field == "messages"
    assert message in said


@pytest.mark.parametrize(("change", "field", "message"), BAD_REST)
def test_other_bad_fields_are_refused(change: dict[str, Any], field: str, message: str) -> None:
    refused, said = refusal(change)
    assert refused == field
    assert message in said


async def test_a_refusal_is_a_400_that_no_worker_sees(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    for change in ({"tools": [tool(), tool()]}, {"messages": [USER, result()]}, {"tool_choice": "required"}):
        reply = await http.post("/v1/chat/completions", json={"messages": [USER]} | change)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] in change
    assert fake.requests == []


async def test_good_ones_are_taken(http: httpx.AsyncClient, fake: FakeDispatcher) -> None:
    """Each near a bad one."""
    for change in (
        {
            "tools": [
                tool(parameters={}),
                tool("a.b-c_9", parameters=None),
                {"function": {"name": "x"}, "type": "function"},
            ]
        },
        {"tools": [tool(parameters=deep(6))]},
        {"tools": [], "tool_choice": "auto"},
        {"tools": [tool()], "tool_choice": "none"},
        {"tools": None, "tool_choice": None, "parallel_tool_calls": False},
        {"messages": [USER, assistant(call(arguments="")), result(content=[{"type": "text", "text": "a"}])]},
        {"messages": [USER, assistant(call(arguments={"city": "Rome"}), call("b")), result("b"), result()]},
        {"messages": [USER, {"role": "assistant", "content": "a", "function_call": None, "tool_calls": []}, USER]},
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}},
                {"role": "function", "name": "now", "content": "noon"},
            ]
        },
        {"chat_template_kwargs": {"enable_thinking": False, "x": SCHEMA}, "reasoning_effort": "low"},
    ):
        reply = await http.post("/v1/chat/completions", json={"messages": [USER]} | change)
        assert reply.status_code == 200, reply.text
