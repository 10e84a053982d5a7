"""`tools` and `tool_choice` of /v1/messages."""

from typing import Any

from cluster.ingress.chat.request import Tool, ToolChoice
from cluster.ingress.chat.schema_check import schema_fault
from cluster.ingress.chat.tools import check_choice, check_tools, make_tool
from cluster.ingress.fields import shorten
from cluster.ingress.reading import flag, items, mapping, member, only, refusal, text, word

_FIELDS = frozenset({"cache_control", "description", "input_schema", "name", "strict", "type"})
# Their values that ask for nothing: arguments are streamed as they come anyway.
_OFF: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "eager_input_streaming": (False, True),
    "input_examples": ([],),
}
_MODES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


def parse_tools(value: Any) -> tuple[Tool, ...]:
    """Raises: InvalidRequestError."""
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(items(value, "tools")))
    check_tools(tools)
    return tools


def parse_tool_choice(value: Any, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises: InvalidRequestError: it is none of the API's, or names no tool that is there."""
    choice = mapping(value, "tool_choice")
    kind = word(choice.get("type"), "tool_choice.type", _MODES)
    known = {"type", "disable_parallel_tool_use"} | ({"name"} if kind == "tool" else set())
    only(choice, known, "tool_choice")
    names = (text(member(choice, "name", "tool_choice"), "tool_choice.name"),) if kind == "tool" else ()
    is_single = flag(choice.get("disable_parallel_tool_use") or False, "tool_choice.disable_parallel_tool_use")
    made = ToolChoice(mode=_MODES[kind], names=names, parallel=not is_single)  # type: ignore[arg-type]
    check_choice(made, tools)
    return made


def _tool(value: Any, path: str) -> Tool:
    tool = mapping(value, path)
    if tool.get("type", "custom") not in ("custom", None):
        raise refusal(
            path,
            f"{path}.type is {shorten(tool['type'])}; this server has no tools of its own: send name and input_schema, "
            "and run it in your program",
        )
    asked = {name: item for name, item in tool.items() if item not in _OFF.get(name, ())}
    only(asked, _FIELDS, path)
    schema = mapping(member(tool, "input_schema", path), f"{path}.input_schema")
    fault = schema_fault(schema, f"{path}.input_schema")
    if fault:
        raise refusal(path, fault)
    return make_tool({**tool, "parameters": schema}, path)
