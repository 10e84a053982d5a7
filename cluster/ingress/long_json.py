"""JSON of a long answer, written piece by piece.

The library writes a value in one call, for which every other thread waits: 0.5 s for a million logprobs. So a thread
that writes one here leaves the streams of others alone.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

NUM_AT_ONCE = 64  # items of a list: 1 ms where each has 20 likely tokens
_OPENED = ("choices", "content", "output")  # lists of what is long itself


def long_json(body: Mapping[str, Any]) -> bytes:
    """The same text as `json.dumps` of an answer."""
    return b"".join([piece.encode() for piece in _pieces(body)])


def _pieces(value: Any, *, is_opened: bool = False) -> Iterator[str]:
    """`is_opened`: a list's items are long themselves."""
    if isinstance(value, Mapping) and value:
        for number, (name, one) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(name)}: "
            yield from _pieces(one, is_opened=name in _OPENED)
        yield "}"
    elif isinstance(value, list) and value:
        for start in range(0, len(value), 1 if is_opened else NUM_AT_ONCE):
            yield ", " if start else "["
            if is_opened:
                yield from _pieces(value[start])
            else:
                yield json.dumps(value[start : start + NUM_AT_ONCE])[1:-1]
        yield "]"
    else:
        yield json.dumps(value)
