"""Scripts that read JSON from a source."""

import json
from collections.abc import Callable
from typing import Any

from cluster.ingress.chat.formats.json_scanner import JsonScanner
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting


def pass_value(source: Source, pass_on: Callable[[str], None]) -> Waiting[None]:
    """Reads one JSON value, passing its text on as it comes. Raises: MalformedCallError."""
    scanner = JsonScanner()
    while True:
        text = source.unread()
        num_read = scanner.feed(text)
        if num_read:
            pass_on(source.skip(num_read))
        if scanner.is_done:
            return
        if scanner.is_broken or not (yield from source.more()):
            raise MalformedCallError


def read_value(source: Source) -> Waiting[str]:
    """One JSON value's text. Raises: MalformedCallError."""
    parts: list[str] = []
    yield from pass_value(source, parts.append)
    return "".join(parts)


def read_string(source: Source) -> Waiting[str]:
    """What a JSON string says. Raises: MalformedCallError."""
    yield from source.space()
    if (yield from source.peek()) != '"':
        raise MalformedCallError
    return string_in((yield from read_value(source)))


def string_in(value: str) -> str:
    """What the text of a JSON string says. Raises: MalformedCallError: half a character, which no answer can carry."""
    text: str = json.loads(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedCallError from None
    return text


def object_in(text: str) -> dict[str, Any] | None:
    """The object that a text is as JSON; None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
