"""The lines of a batch's input, in OpenAI's format: `{"custom_id", "method", "url", "body"}`.

A line that says who it is, and is wrong besides, gets an error as its answer. One that does not cannot be answered at
all: then nothing is begun.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton.errors import ConfigError

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
MAX_TOLD = 5  # faults in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """Attributes: number: from 1, as editors count; fault: why it cannot be sent, else empty."""

    number: int
    custom_id: str
    url: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


def numbers_of(path: Path) -> dict[str, int]:
    """Custom id -> line number, of all lines.

    Raises:
        ConfigError: The file cannot be read, or lines in it say not who they are, or say the same.
    """
    numbers: dict[str, int] = {}
    faults: list[str] = []
    for number, text in _texts(path):
        try:
            custom_id = _custom_id(_object(text))
        except ValueError as error:
            faults.append(f"line {number} {error}")
            continue
        if custom_id in numbers:
            faults.append(f"line {number} repeats custom_id {custom_id!r} of line {numbers[custom_id]}")
        numbers.setdefault(custom_id, number)
    if faults:
        more = f"; and {len(faults) - MAX_TOLD} more" if len(faults) > MAX_TOLD else ""
        raise ConfigError(f"{path}: {'; '.join(faults[:MAX_TOLD])}{more}; give each line a custom_id of its own")
    return numbers


def read_lines(path: Path) -> Iterator[BatchLine]:
    """Of a file that `numbers_of` has read."""
    for number, text in _texts(path):
        found = _object(text)
        url, body = found.get("url"), found.get("body")
        yield BatchLine(
            number=number,
            custom_id=_custom_id(found),
            url=url if isinstance(url, str) else "",
            body=body if isinstance(body, dict) else {},
            fault=_fault(found),
        )


def _texts(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a file of JSON lines") from error


def _object(text: bytes) -> dict[str, Any]:
    """Raises: ValueError: it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    return found


def _custom_id(found: Mapping[str, Any]) -> str:
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("has no custom_id, a text")
    return custom_id


def _fault(found: Mapping[str, Any]) -> str:
    method, url, body = found.get("method", "POST"), found.get("url"), found.get("body")
    if method != "POST":
        return f"method is {json.dumps(method)[:80]}; it must be POST"
    if url not in URLS:
        return f"url is {json.dumps(url)[:80]}; it must be one of {', '.join(URLS)}"
    if not isinstance(body, dict):
        return "body is no object; give the request's"
    if body.get("stream"):
        return "body.stream is set; answers of a batch come whole: leave it out"
    return ""
