"""Arguments that models write as bare text, turned into JSON of the types that a tool's schema asks for."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.ingress.chat.formats.markers import SPACE, Markers
from cluster.ingress.chat.formats.python_literal import escaped, put_literal
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting
from cluster.ingress.chat.request import Tool

Put = Callable[[str], None]
_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}


class ArgumentTypes:
    """Which JSON types each argument of a request's tools may have; none known: any."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._schemas: dict[str, Any] = {tool.name: tool.parameters.get("properties") for tool in tools}

    def of(self, tool: str, key: str) -> frozenset[str]:
        properties = self._schemas.get(tool)
        return frozenset(_types(properties.get(key))) if isinstance(properties, Mapping) else frozenset()


def _types(schema: Any) -> set[str]:
    """Of a property: its `type`, those of its alternatives, of its enum's or const's values."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, Sequence):
        return {one for one in named if isinstance(one, str)}
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(alternatives, Sequence) and not isinstance(alternatives, str):
        return {one for alternative in alternatives for one in _types(alternative)}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return {_TYPES.get(type(value), "null") for value in values} if isinstance(values, Sequence) else set()


def put_text(source: Source, put: Put, ends: Markers, *, is_framed: bool) -> Waiting[str]:
    """Reads text up to a marker, as one JSON string that comes in pieces; gives back the marker, "" for none.

    Args:
        is_framed: A line end at the text's beginning and one at its end are not its own.
    """
    text = _Framed(put) if is_framed else None
    put('"')
    marker = yield from source.until(ends, text.put if text else lambda piece: put(escaped(piece)))
    put('"')
    return marker


class _Framed:
    """Escapes and passes on what comes, but for a line end at either side."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._has_begun = False
        self._held = ""

    def put(self, piece: str) -> None:
        if not piece:
            return
        if not self._has_begun:
            piece = piece.removeprefix("\n")
            self._has_begun = True
        piece = self._held + piece
        self._held = "\n" if piece.endswith("\n") else ""
        self._put(escaped(piece.removesuffix("\n")))


def json_of(text: str, types: frozenset[str]) -> str:
    """A value written as bare text: as JSON or as Python where the types allow what it is then, else as a string."""
    text = text.strip(SPACE)
    found = text if _is_json(text) else _from_python(text)
    if found is not None and (not types or "string" not in types or _types_of(found) & types):
        return found
    return json.dumps(text, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(name)


def _types_of(text: str) -> set[str]:
    named = _TYPES.get(type(json.loads(text)), "null")
    return {named, "number"} if named == "integer" else {named}


def _from_python(text: str) -> str | None:
    source, parts = Source(), list[str]()
    source.add(text)
    source.end()
    try:
        for _ in put_literal(source, parts.append):
            return None
    except MalformedCallError:
        return None
    return None if source.unread() else "".join(parts)
