"""`system` and `messages` of /v1/messages: contents of blocks, as a client sends a conversation back."""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.ingress.fields import shorten
from cluster.ingress.reading import flag, items, mapping, member, only, refusal, text, word
from cluster.ingress.turns import Turns

_ADVICE = {
    "document": "this server reads no documents: send their text as a text block",
    "image": "this server reads no images: describe them in a text block",
    "redacted_thinking": "another server has encrypted it: leave the block out",
    "search_result": "this server reads texts: send it as a text block",
    "tool_reference": "this server searches no tools: send them in `tools`",
}
_BUILT_IN = "this server has no tools of its own: leave the block out, or send what it says as a text block"
_TEXT_FIELDS = frozenset({"cache_control", "citations", "text", "type"})


def parse_system(value: Any, turns: Turns) -> None:
    """Raises: InvalidRequestError."""
    said = _texts(value, "system")
    if said:
        turns.say("system", said)


def parse_messages(value: Any, turns: Turns) -> None:
    """Raises: InvalidRequestError: a block is not one that a model of texts can read."""
    if not items(value, "messages"):
        raise refusal("messages", "messages is empty; send at least one message")
    for index, message in enumerate(value):
        path = f"messages[{index}]"
        message = mapping(message, path)
        only(message, ("content", "role"), path)
        role = word(message.get("role"), f"{path}.role", _ROLES)
        content, place = message.get("content"), f"{path}.content"
        if content is None:
            raise refusal(path, f"{place} is missing; send a string or a list of blocks")
        turns.new_message()
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for number, block in enumerate(items(blocks, place)):
            where = place if isinstance(content, str) else f"{place}[{number}]"
            _read(mapping(block, where), where, role, turns)
    turns.check_results("messages", "send its tool_result")
    if turns.ends_with_answer and not turns.messages[-1]["content"]:
        raise refusal("messages", "messages ends with an assistant that has no text to go on with; send some")


def _read(block: Mapping[str, Any], path: str, role: str, turns: Turns) -> None:
    kind = block.get("type")
    reader = _ROLES[role].get(kind) if isinstance(kind, str) else None
    if reader is not None:
        reader(block, path, turns)
        return
    if any(kind in readers for readers in _ROLES.values() if isinstance(kind, str)):
        advice = f"a message of role {role} has no such blocks"
    else:
        advice = _ADVICE.get(kind, _BUILT_IN) if isinstance(kind, str) else "its type is the name of a kind of block"
    raise refusal(path, f"{path}.type is {shorten(kind)}; {advice}")


def _user_text(block: Mapping[str, Any], path: str, turns: Turns) -> None:
    turns.say("user", _text(block, path))


def _system_text(block: Mapping[str, Any], path: str, turns: Turns) -> None:
    turns.say("system", _text(block, path))


def _answer(block: Mapping[str, Any], path: str, turns: Turns) -> None:
    turns.answer(_text(block, path))


def _thinking(block: Mapping[str, Any], path: str, turns: Turns) -> None:
    only(block, ("signature", "thinking", "type"), path)
    turns.think(text(member(block, "thinking", path), f"{path}.thinking"))


def _tool_use(block: Mapping[str, Any], path: str, turns: Turns) -> None:
    only({**block, "caller": _off(block.get("caller"))}, ("cache_control", "id", "input", "name", "type"), path)
    call_id, name = (text(member(block, key, path), f"{path}.{key}") for key in ("id", "name"))
    turns.call(call_id, name, mapping(member(block, "input", path), f"{path}.input"), f"{path}.id")


def _tool_result(block: Mapping[str, Any], path: str, turns: Turns) -> None:
    only(block, ("cache_control", "content", "is_error", "tool_use_id", "type"), path)
    call_id = text(member(block, "tool_use_id", path), f"{path}.tool_use_id")
    result = _texts(block.get("content") or "", f"{path}.content")
    is_error = flag(block.get("is_error") or False, f"{path}.is_error")
    turns.result(call_id, f"Error: {result}" if is_error else result, f"{path}.tool_use_id")


def _texts(content: Any, path: str) -> str:
    """A text, or a list of text blocks, joined by line ends."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refusal(path, f"{path} is {shorten(content)}; it must be a string or a list of text blocks")
    return "\n".join(_text(mapping(block, f"{path}[{i}]"), f"{path}[{i}]") for i, block in enumerate(content))


def _text(block: Mapping[str, Any], path: str) -> str:
    kind = block.get("type")
    if kind != "text":
        advice = _ADVICE.get(kind, "this server reads texts") if isinstance(kind, str) else "this server reads texts"
        raise refusal(path, f"{path}.type is {shorten(kind)}; {advice}")
    only(block, _TEXT_FIELDS, path)
    return text(member(block, "text", path), f"{path}.text")


def _off(caller: Any) -> Any:
    """The model itself called, which is what every call here is."""
    return None if caller == {"type": "direct"} else caller


_Reader = Callable[[Mapping[str, Any], str, Turns], None]
_ROLES: Mapping[str, Mapping[str, _Reader]] = {
    "user": {"text": _user_text, "tool_result": _tool_result},
    "assistant": {"text": _answer, "thinking": _thinking, "tool_use": _tool_use},
    "system": {"text": _system_text},
}
