"""Calls of functions in a conversation so far: what assistants called, and that each result has its call."""

import json
from collections.abc import Mapping
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten, shown_name

MAX_NAMED = 20  # calls in one message
_ENTRY_FIELDS = frozenset({"function", "id", "index", "type"})


class CallBook:
    """The calls that messages have made, in order; results find theirs in it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # call id -> function
        self._legacy: str = ""  # the last call that had no id

    def calls(self, calls: Any, path: str) -> list[dict[str, Any]]:
        """`tool_calls` of an assistant, with arguments as templates read them: objects. Raises: InvalidRequestError."""
        if not isinstance(calls, list):
            raise refusal(f"{path} is {shorten(calls)}; send a list of calls")
        parsed = [_call(call, f"{path}[{index}]") for index, call in enumerate(calls)]
        seen: set[str] = set()
        for index, call in enumerate(parsed):
            if call["id"] in seen:
                raise refusal(f"{path}[{index}].id is {shorten(call['id'])} again; give each call its own id")
            seen.add(call["id"])
        self._names.update((call["id"], call["function"]["name"]) for call in parsed)
        return parsed

    def legacy_call(self, call: Any, path: str) -> list[dict[str, Any]]:
        """`function_call`, the older form of `tool_calls`: one call, without an id."""
        if not isinstance(call, Mapping):
            raise refusal(f"{path} is {shorten(call)}; send an object with name and arguments")
        self._legacy = f"call_{len(self._names)}"
        function = _function(call, path)
        self._names[self._legacy] = function["name"]
        return [{"id": self._legacy, "type": "function", "function": function}]

    def result_of(self, call_id: Any, path: str) -> dict[str, str]:
        """The id and name that a tool's result gets. Raises: InvalidRequestError: nobody has made this call."""
        if not isinstance(call_id, str) or call_id not in self._names:
            known = f"; the last calls: {', '.join(list(self._names)[-MAX_NAMED:])}" if self._names else ""
            raise refusal(
                f"{path} is {shorten(call_id)}, and no assistant message before it made that call: "
                f"send the message with tool_calls first{known}"
            )
        return {"tool_call_id": call_id, "name": self._names[call_id]}

    def legacy_result_of(self, name: Any, path: str) -> dict[str, str]:
        """Of a message with role function: the last `function_call`'s."""
        if not self._legacy or self._names[self._legacy] != name:
            raise refusal(
                f"{path} is {shorten(name)}, and the assistant message before it has no function_call of that name: "
                "send it first, or use role tool with tool_call_id"
            )
        return {"tool_call_id": self._legacy, "name": self._names[self._legacy]}


def refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="messages")


def _call(call: Any, path: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise refusal(f"{path} is {shorten(call)}; send an object with id, type and function")
    for name in call:
        if name not in _ENTRY_FIELDS:
            raise refusal(f"{path}.{shown_name(name)} is not a field of a call; leave it out")
    if call.get("type", "function") != "function":
        raise refusal(f"{path}.type is {shorten(call['type'])}; this server knows calls of type function alone")
    call_id, function = call.get("id"), call.get("function")
    if not isinstance(call_id, str) or not call_id:
        raise refusal(f"{path}.id is {shorten(call_id)}; send the id that the call came with")
    if not isinstance(function, Mapping):
        raise refusal(f"{path}.function is {shorten(function)}; send an object with name and arguments")
    return {"id": call_id, "type": "function", "function": _function(function, f"{path}.function")}


def _function(function: Mapping[str, Any], path: str) -> dict[str, Any]:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise refusal(f"{path}.name is {shorten(name)}; send the function's name")
    return {"name": name, "arguments": _arguments(function.get("arguments"), f"{path}.arguments")}


def _arguments(value: Any, path: str) -> dict[str, Any]:
    """An object, or the text of one; empty and null are `{}`."""
    if value is None or value == "":
        return {}
    try:
        arguments = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is {shorten(value)}, which is not JSON ({error}); send the text of an object") from error
    if not isinstance(arguments, dict):
        raise refusal(f"{path} is {shorten(value)}; send the JSON text of an object")
    return arguments
