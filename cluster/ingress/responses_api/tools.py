"""`tools` and `tool_choice` of /v1/responses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.ingress.chat.request import Tool, ToolChoice
from cluster.ingress.chat.tools import check_choice, check_tools, make_tool
from cluster.ingress.fields import shorten
from cluster.ingress.reading import items, mapping, member, only, refusal, text, word
from cluster.ingress.responses_api.namespaces import flat_name

_FIELDS = frozenset({"description", "name", "parameters", "strict", "type"})
_OFF = {"allowed_callers": ["direct"], "async": False, "defer_loading": False}
_BUILT_IN = "this server runs no tools of its own: send a function, and run it in your program"


@dataclass(frozen=True, slots=True)
class Tools:
    """
    Attributes:
        functions: As the model sees them.
        groups: Names of functions that stand in a namespace -> the namespace, and the name within it.
    """

    functions: tuple[Tool, ...]
    groups: Mapping[str, tuple[str, str]]


def parse_tools(value: Any) -> Tools:
    """Raises: InvalidRequestError."""
    functions: list[Tool] = []
    groups: dict[str, tuple[str, str]] = {}
    for index, item in enumerate(items(value, "tools")):
        path = f"tools[{index}]"
        tool = mapping(item, path)
        if tool.get("type") != "namespace":
            functions.append(_tool(tool, path))
            continue
        for name, function in _namespace(tool, path):
            groups[function.name] = (tool["name"], name)
            functions.append(function)
    check_tools(functions)
    return Tools(tuple(functions), groups)


def _namespace(group: Mapping[str, Any], path: str) -> Iterator[tuple[str, Tool]]:
    """The functions of a group by their names within it; what is said of the group is said with its first."""
    only(group, ("description", "name", "tools", "type"), path)
    namespace = text(member(group, "name", path), f"{path}.name")
    about = text(group.get("description") or "", f"{path}.description")
    for index, item in enumerate(items(member(group, "tools", path), f"{path}.tools")):
        place = f"{path}.tools[{index}]"
        tool = _tool(item, place)
        description = f"{about}\n{tool.description}" if about and not index else tool.description
        named = {"name": flat_name(namespace, tool.name), "parameters": tool.parameters, "strict": tool.strict}
        yield tool.name, make_tool({**named, "description": description}, place)


def parse_tool_choice(value: Any, tools: tuple[Tool, ...], *, parallel: bool) -> ToolChoice:
    """Raises: InvalidRequestError: it is none of the API's, or names no tool that is there."""
    choice = _choice(value, parallel)
    check_choice(choice, tools)
    return choice if tools else ToolChoice(mode="none", parallel=parallel)


def _tool(value: Any, path: str) -> Tool:
    tool = mapping(value, path)
    if tool.get("type") != "function":
        raise refusal(path, f"{path}.type is {shorten(tool.get('type'))}; {_BUILT_IN}")
    asked = {name: item for name, item in tool.items() if name not in _OFF or item != _OFF[name]}
    only(asked, _FIELDS, path)
    return make_tool(tool, path)


def _choice(value: Any, parallel: bool) -> ToolChoice:
    if isinstance(value, str):
        mode = word(value, "tool_choice", ("none", "auto", "required"))
        return ToolChoice(mode=mode, parallel=parallel)  # type: ignore[arg-type]
    choice = mapping(value, "tool_choice")
    if choice.get("type") == "function":
        return ToolChoice(mode="required", names=(_name(choice, "tool_choice"),), parallel=parallel)
    if choice.get("type") != "allowed_tools":
        raise refusal("tool_choice", f"tool_choice.type is {shorten(choice.get('type'))}; {_BUILT_IN}")
    mode = word(choice.get("mode"), "tool_choice.mode", ("auto", "required"))
    allowed = items(member(choice, "tools", "tool_choice"), "tool_choice.tools")
    if not allowed:
        raise refusal("tool_choice", 'tool_choice.tools is an empty list; name a function, or send "none"')
    names = dict.fromkeys(_name(tool, f"tool_choice.tools[{index}]") for index, tool in enumerate(allowed))
    return ToolChoice(mode=mode, names=tuple(names), parallel=parallel)  # type: ignore[arg-type]


def _name(value: Any, path: str) -> str:
    tool = mapping(value, path)
    if tool.get("type") != "function":
        raise refusal(path, f"{path}.type is {shorten(tool.get('type'))}; {_BUILT_IN}")
    return text(member(tool, "name", path), f"{path}.name")
