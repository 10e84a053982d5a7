"""Python literals as models write them, turned into JSON while they come."""

import json
import math
import re
from collections.abc import Callable

from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting

Put = Callable[[str], None]

MAX_DEPTH = 64
_CONSTANTS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "true": "true",
    "false": "false",
    "null": "null",
}
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "a": "\a",
    "v": "\v",
    "0": "\0",
    "\n": "",
    "\\": "\\",
    "'": "'",
    '"': '"',
}
_NUM_HEX = {"x": 2, "u": 4, "U": 8}
_PLAIN = {quote: re.compile(rf"[^\\{quote}]+") for quote in "'\""}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_CLOSING = {"[": "]", "(": ")"}


def put_literal(source: Source, put: Put, depth: int = 0) -> Waiting[None]:
    """Reads a string, number, constant, list, tuple or dict with string keys. Raises: MalformedCallError."""
    yield from source.space()
    first = yield from source.peek()
    if depth > MAX_DEPTH:
        raise MalformedCallError
    if first and first in "'\"":
        yield from put_string(source, put)
    elif first in _CLOSING:
        source.skip(1)
        put("[")
        yield from _put_items(source, put, _CLOSING[first], depth)
        put("]")
    elif first == "{":
        source.skip(1)
        put("{")
        yield from _put_items(source, put, "}", depth)
        put("}")
    else:
        put(_word((yield from source.run(_is_of_word))))


def _put_items(source: Source, put: Put, end: str, depth: int) -> Waiting[None]:
    is_first = True
    while True:
        yield from source.space()
        if (yield from source.literal(end)):
            return
        if not is_first:
            put(", ")
        is_first = False
        if end == "}":
            yield from put_string(source, put)
            yield from source.space()
            yield from source.expect(":")
            put(": ")
        yield from put_literal(source, put, depth + 1)
        yield from source.space()
        if not (yield from source.literal(",")) and (yield from source.peek()) != end:
            raise MalformedCallError


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character in "_.+-"


def _word(text: str) -> str:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return text.removeprefix("+").replace("_", "")
    if not _FLOAT.fullmatch(text) or not math.isfinite(value := float(text)):
        raise MalformedCallError
    return json.dumps(value)


def put_string(source: Source, put: Put) -> Waiting[None]:
    """Reads a string in quotes. Raises: MalformedCallError."""
    quote = yield from source.peek()
    if not quote or quote not in "'\"":
        raise MalformedCallError
    source.skip(1)
    put('"')
    while True:
        if not (yield from source.peek()):
            raise MalformedCallError
        plain = _PLAIN[quote].match(source.unread())
        if plain is not None:
            put(escaped(source.skip(plain.end())))
        elif (yield from source.literal(quote)):
            put('"')
            return
        else:
            source.skip(1)
            yield from _put_escape(source, put)


def _put_escape(source: Source, put: Put) -> Waiting[None]:
    """What stands behind a backslash; an unknown one stays, with its backslash, as in Python."""
    kind = yield from source.peek()
    if not kind:
        raise MalformedCallError
    source.skip(1)
    if kind not in _NUM_HEX:
        put(escaped(_ESCAPES.get(kind, "\\" + kind)))
        return
    digits = ""
    for _ in range(_NUM_HEX[kind]):
        digit = yield from source.peek()
        if not digit or digit not in "0123456789abcdefABCDEF":
            raise MalformedCallError
        digits += source.skip(1)
    code = int(digits, 16)
    if code > 0x10FFFF:
        raise MalformedCallError
    put(f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else escaped(chr(code)))  # halves of a pair: JSON has them so too


def escaped(text: str) -> str:
    """A part of a text as it stands in a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
