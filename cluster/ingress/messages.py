"""Chat messages: which roles and contents are accepted, and the plain form that templates get."""

from collections.abc import Mapping
from typing import Any

from cluster.ingress.fields import shorten, shown_name
from cluster.ingress.tool_calls import CallBook, refusal

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
REASONING = ("reasoning_content", "reasoning", "thinking")  # one thing: names of servers and of templates
_FIELDS = frozenset({"role", "content", "name"})
_OF_ASSISTANTS = frozenset({"tool_calls", "function_call", *REASONING})
_REFUSED = frozenset({"audio", "annotations", "refusal"})


def parse_messages(messages: list[Any]) -> list[dict[str, Any]]:
    """Messages with text contents, as templates read them; parts of one content are joined by line ends.

    A message's calls have objects as arguments, a result has its call's id and name and the role tool, and the
    reasoning of an assistant stands under all names that templates know.

    Raises: InvalidRequestError: none at all, an unknown role or field, a part that is not text, a call whose arguments
        are no JSON object, or a result without its call.
    """
    if not messages:
        raise refusal("messages is empty; send at least one message")
    book = CallBook()
    return [_message(message, f"messages[{index}]", book) for index, message in enumerate(messages)]


def _message(message: Any, path: str, book: CallBook) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise refusal(f"{path} is {shorten(message)}; send an object with role and content")
    role = message.get("role")
    _check_fields(message, role, path)
    if not isinstance(role, str) or role not in ROLES:
        raise refusal(f"{path}.role is {shorten(role)}; use one of {', '.join(sorted(ROLES))}")
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise refusal(f"{path}.name is {shorten(name)}; it must be a string")
    if role == "assistant":
        parsed = _assistant(message, path, book)
    else:
        parsed = {"role": role, "content": _content(message.get("content"), f"{path}.content")}
    if role == "tool":
        return parsed | book.result_of(message.get("tool_call_id"), f"{path}.tool_call_id")
    if role == "function":
        return parsed | {"role": "tool"} | book.legacy_result_of(name, f"{path}.name")
    return parsed if name is None else parsed | {"name": name}


def _check_fields(message: Mapping[str, Any], role: Any, path: str) -> None:
    own = _OF_ASSISTANTS if role == "assistant" else {"tool_call_id"} if role == "tool" else ()
    for name, value in message.items():
        if name in _FIELDS or name in own:
            continue
        is_known = name in _REFUSED or name in _OF_ASSISTANTS or name == "tool_call_id"
        if is_known and not value:
            continue
        if name in _REFUSED:
            reason = "this server does not support it"
        else:
            reason = f"it is not a field of a message{f' of role {role}' if is_known else ''}"
        raise refusal(f"{path}.{shown_name(name)} is {shorten(value)}; {reason}: leave it out")


def _assistant(message: Mapping[str, Any], path: str, book: CallBook) -> dict[str, Any]:
    """Content may be null beside calls or reasoning."""
    parsed: dict[str, Any] = {"role": "assistant"}
    content, calls, legacy = message.get("content"), message.get("tool_calls"), message.get("function_call")
    if legacy:
        if calls:
            raise refusal(f"{path} has function_call and tool_calls; send tool_calls alone")
        parsed["tool_calls"] = book.legacy_call(legacy, f"{path}.function_call")
    elif calls:
        parsed["tool_calls"] = book.calls(calls, f"{path}.tool_calls")
    for name in REASONING:
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            raise refusal(f"{path}.{name} is {shorten(value)}; it must be a string")
    reasoning = next((text for name in REASONING if (text := message.get(name))), None)
    if reasoning is not None:
        parsed |= dict.fromkeys(REASONING, reasoning)
    is_optional = "tool_calls" in parsed or reasoning is not None
    parsed["content"] = None if is_optional and not content else _content(content, f"{path}.content")
    return parsed


def _content(content: Any, path: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise refusal(f"{path} is {shorten(content)}; send a string or a list of text parts")
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if not isinstance(part, Mapping):
        raise refusal(f'{path} is {shorten(part)}; send {{"type": "text", "text": ...}}')
    if part.get("type") != "text":
        raise refusal(f"{path}.type is {shorten(part.get('type'))}; this server reads parts of type text alone")
    if not isinstance(part.get("text"), str):
        raise refusal(f"{path}.text is {shorten(part.get('text'))}; it must be a string")
    return str(part["text"])
