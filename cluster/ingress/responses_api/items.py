"""The items of `input`: messages, thoughts, calls and their outputs, as a client sends a conversation back."""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.ingress.fields import shorten
from cluster.ingress.json_object import json_object
from cluster.ingress.reading import items, mapping, member, only, refusal, text, word
from cluster.ingress.responses_api.namespaces import flat_name
from cluster.ingress.responses_api.sealed import unsealed
from cluster.ingress.turns import Turns

_SPEAKERS = ("assistant", "developer", "system", "user")
_STATES = frozenset({"id", "phase", "role", "status", "type"})  # they say nothing that a model reads
_ADVICE = {
    "input_audio": "this server reads no audio: send its words as input_text",
    "input_file": "this server reads no files: send their text as input_text",
    "input_image": "this server reads no images: describe it as input_text",
    "item_reference": "this server stores no items: send the item itself",
}
_BUILT_IN = "this server has no tools of its own: leave the item out, or send what it says as a message"


def parse_input(value: Any, turns: Turns) -> None:
    """Raises: InvalidRequestError: an item is not one that a model of texts can read."""
    if isinstance(value, str):
        turns.say("user", value)
        return
    if not items(value, "input"):
        raise refusal("input", "input is an empty list; send at least one item")
    for index, item in enumerate(value):
        path = f"input[{index}]"
        item = mapping(item, path)
        kind = item.get("type", "message")
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            advice = _ADVICE.get(kind, _BUILT_IN) if isinstance(kind, str) else "its type is the name of a kind of item"
            raise refusal(path, f"{path}.type is {shorten(kind)}; {advice}")
        turns.new_message()
        read(item, path, turns)
    turns.check_results("input", "send its function_call_output")


def _message(item: Mapping[str, Any], path: str, turns: Turns) -> None:
    only(item, _STATES | {"content"}, path)
    speaker = word(item.get("role"), f"{path}.role", _SPEAKERS)
    said = _texts(member(item, "content", path), f"{path}.content")
    if speaker == "assistant":
        turns.answer(said)
    else:
        turns.say(speaker, said)  # type: ignore[arg-type]


def _reasoning(item: Mapping[str, Any], path: str, turns: Turns) -> None:
    """A sealed thought is the same as one in plain text, which goes first; a summary stands where there is neither."""
    only(item, _STATES | {"content", "encrypted_content", "summary"}, path)
    thought = _texts(item.get("content") or [], f"{path}.content")
    if not thought and item.get("encrypted_content") is not None:
        thought = unsealed(item["encrypted_content"], f"{path}.encrypted_content")
    turns.think(thought or _texts(item.get("summary") or [], f"{path}.summary"))


def _call(item: Mapping[str, Any], path: str, turns: Turns) -> None:
    only(item, _STATES | {"arguments", "call_id", "name", "namespace"}, path)
    call_id, name = (text(member(item, key, path), f"{path}.{key}") for key in ("call_id", "name"))
    name = flat_name(text(item.get("namespace") or "", f"{path}.namespace"), name)
    arguments = json_object(member(item, "arguments", path), f"{path}.arguments")
    turns.call(call_id, name, arguments, f"{path}.call_id")


def _output(item: Mapping[str, Any], path: str, turns: Turns) -> None:
    only(item, _STATES | {"call_id", "name", "namespace", "output"}, path)
    call_id = text(member(item, "call_id", path), f"{path}.call_id")
    turns.result(call_id, _texts(member(item, "output", path), f"{path}.output"), f"{path}.call_id")


def _texts(content: Any, path: str) -> str:
    """A text, or a list of parts, joined by line ends."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refusal(path, f"{path} is {shorten(content)}; it must be a string or a list of text parts")
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    part = mapping(part, path)
    kind = part.get("type")
    if kind == "refusal":
        return text(member(part, "refusal", path), f"{path}.refusal")
    if not isinstance(kind, str) or kind not in _TEXTS:
        advice = _ADVICE.get(kind, "this server reads texts") if isinstance(kind, str) else "this server reads texts"
        raise refusal(path, f"{path}.type is {shorten(kind)}; {advice}")
    only(part, _PART_FIELDS, path)
    return text(member(part, "text", path), f"{path}.text")


_TEXTS = frozenset({"input_text", "output_text", "reasoning_text", "summary_text", "text"})
_PART_FIELDS = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint", "text", "type"})
_READERS: Mapping[str, Callable[[Mapping[str, Any], str, Turns], None]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _call,
    "function_call_output": _output,
}
