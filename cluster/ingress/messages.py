"""Chat messages: which roles and contents are accepted, and the plain form that templates get."""

from collections.abc import Mapping
from typing import Any

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten

ROLES = frozenset({"system", "developer", "user", "assistant"})
_FIELDS = frozenset({"role", "content", "name"})
_REFUSED = frozenset(
    {"audio", "annotations", "function_call", "reasoning_content", "refusal", "tool_call_id", "tool_calls"}
)


def parse_messages(messages: list[Any]) -> list[dict[str, str]]:
    """Messages as {"role", "content"[, "name"]} with text contents; parts of one message are joined by line ends.

    Raises: InvalidRequestError: none at all, an unknown role or field, or a part that is not text.
    """
    if not messages:
        raise InvalidRequestError("messages is empty; send at least one message", field="messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, path: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise _refusal(f"{path} is {shorten(message)}; send an object with role and content")
    for name, value in message.items():
        if name in _FIELDS or (name in _REFUSED and not value):
            continue
        reason = "this server does not support it" if name in _REFUSED else "it is not a field of a message"
        raise _refusal(f"{path}.{name} is {shorten(value)}; {reason}: leave it out")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _refusal(f"{path}.role is {shorten(role)}; use one of {', '.join(sorted(ROLES))}")
    parsed = {"role": role, "content": _content(message.get("content"), f"{path}.content")}
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise _refusal(f"{path}.name is {shorten(name)}; it must be a string")
        parsed["name"] = name
    return parsed


def _content(content: Any, path: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise _refusal(f"{path} is {shorten(content)}; send a string or a list of text parts")
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if not isinstance(part, Mapping):
        raise _refusal(f'{path} is {shorten(part)}; send {{"type": "text", "text": ...}}')
    if part.get("type") != "text":
        raise _refusal(f"{path}.type is {shorten(part.get('type'))}; this server reads parts of type text alone")
    if not isinstance(part.get("text"), str):
        raise _refusal(f"{path}.text is {shorten(part.get('text'))}; it must be a string")
    return str(part["text"])


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="messages")
