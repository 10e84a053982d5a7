"""The tools of a request, and which of them may or must be called, as OpenAI's chats say it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.chat.request import Tool, ToolChoice
from cluster.ingress.chat.schema_check import schema_fault
from cluster.ingress.fields import shorten, shown_name

MAX_TOOLS = 512  # all of them are in the prompt
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_FUNCTION_FIELDS = frozenset({"description", "name", "parameters", "strict"})
_MODES = ("none", "auto", "required")


def parse_tools(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """Raises: InvalidRequestError: one is no function, has no name or a schema that is none, or names repeat."""
    parsed = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools))
    check_tools(parsed)
    return parsed


def make_tool(function: Mapping[str, Any], path: str) -> Tool:
    """A function's name, description, parameters and strict, whatever API it comes from.

    Args:
        path: Where the request has it, for errors.
    Raises: InvalidRequestError.
    """
    name, description = function.get("name"), function.get("description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refusal(f"{path}.name is {shorten(name)}; use 1 to 128 letters, digits, underscores, points and dashes")
    if description is not None and not isinstance(description, str):
        raise _refusal(f"{path}.description is {shorten(description)}; it must be a string")
    if strict is not None and not isinstance(strict, bool):
        raise _refusal(f"{path}.strict is {shorten(strict)}; it must be true or false")
    return Tool(
        name=name,
        description=description or "",
        parameters=_parameters({} if parameters is None else parameters, f"{path}.parameters"),
        strict=bool(strict),
    )


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises: InvalidRequestError: there are too many, or two have one name."""
    if len(tools) > MAX_TOOLS:
        raise _refusal(f"tools has {len(tools)} functions; send at most {MAX_TOOLS}")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise _refusal(f"tools[{index}] has the name {shorten(tool.name)} again; give each function its own name")
        seen.add(tool.name)


def parse_tool_choice(choice: Any, tools: Sequence[Tool], *, parallel: bool) -> ToolChoice:
    """Raises: InvalidRequestError: it is no choice, or names a function that is not in `tools`."""
    if choice is None or choice == "none" or (choice == "auto" and not tools):
        return ToolChoice(mode="auto" if choice != "none" and tools else "none", parallel=parallel)
    if choice in ("auto", "required"):
        made = ToolChoice(mode=choice, parallel=parallel)
    elif isinstance(choice, Mapping) and choice.get("type") == "function":
        made = ToolChoice(mode="required", names=(_chosen_name(choice, "tool_choice"),), parallel=parallel)
    elif isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        made = _allowed(choice.get("allowed_tools"), parallel=parallel)
    else:
        raise _refusal(
            f"tool_choice is {shorten(choice)}; use {', '.join(_MODES)}, "
            '{"type": "function", "function": {"name": ...}} or {"type": "allowed_tools", ...}',
            "tool_choice",
        )
    check_choice(made, tools)
    return made


def check_choice(choice: ToolChoice, tools: Iterable[Tool]) -> None:
    """Raises: InvalidRequestError: a call must be made and there is nothing to call."""
    known = {tool.name: tool for tool in tools}  # in order
    for name in choice.names:
        if name not in known:
            raise _refusal(
                f"tool_choice names {shorten(name)}, which is not in tools; "
                + (f"name one of {', '.join([*known][:20])}" if known else "send that function in tools"),
                "tool_choice",
            )
    if choice.mode == "required" and not known:
        raise _refusal('tool_choice is "required" and there are no tools; send tools, or leave it out', "tool_choice")


def openai_tool(tool: Tool) -> dict[str, Any]:
    """As chat templates read it."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
    }


def _tool(tool: Any, path: str) -> Tool:
    if not isinstance(tool, Mapping):
        raise _refusal(f'{path} is {shorten(tool)}; send {{"type": "function", "function": {{...}}}}')
    if tool.get("type", "function") != "function":
        raise _refusal(f"{path}.type is {shorten(tool['type'])}; this server knows tools of type function alone")
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise _refusal(f"{path}.function is {shorten(function)}; send an object with name and parameters")
    for name in function:
        if name not in _FUNCTION_FIELDS:
            raise _refusal(f"{path}.function.{shown_name(name)} is not a field of a function; leave it out")
    return make_tool(function, f"{path}.function")


def _parameters(schema: Any, path: str) -> Mapping[str, Any]:
    """The arguments of a call are an object, so the schema is one's; `{}` is one without properties."""
    fault = schema_fault(schema, path)
    if fault:
        raise _refusal(fault)
    if not isinstance(schema, Mapping):
        raise _refusal(f"{path} is {shorten(schema)}; send the JSON schema of an object")
    if schema.get("type", "object") != "object":
        raise _refusal(f"{path}.type is {shorten(schema['type'])}; the arguments of a function are an object")
    return schema if schema else {"type": "object", "properties": {}}


def _allowed(allowed: Any, *, parallel: bool) -> ToolChoice:
    path = "tool_choice.allowed_tools"
    if not isinstance(allowed, Mapping):
        raise _refusal(f"{path} is {shorten(allowed)}; send an object with mode and tools", "tool_choice")
    mode, tools = allowed.get("mode"), allowed.get("tools")
    if mode not in ("auto", "required"):
        raise _refusal(f"{path}.mode is {shorten(mode)}; use auto or required", "tool_choice")
    if not isinstance(tools, list) or not tools:
        raise _refusal(f"{path}.tools is {shorten(tools)}; name at least one function", "tool_choice")
    names = dict.fromkeys(_chosen_name(tool, f"{path}.tools[{index}]") for index, tool in enumerate(tools))
    return ToolChoice(mode=mode, names=tuple(names), parallel=parallel)


def _chosen_name(choice: Any, path: str) -> str:
    """Of `{"type": "function", "function": {"name"}}`, or with the name beside the type."""
    function = choice.get("function", choice) if isinstance(choice, Mapping) else choice
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise _refusal(f'{path} is {shorten(choice)}; send {{"type": "function", "function": {{"name": ...}}}}', path)
    return name


def _refusal(message: str, field: str = "tools") -> InvalidRequestError:
    return InvalidRequestError(message, field=field.partition(".")[0])
