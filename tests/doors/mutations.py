"""Requests of a kind that nobody should send, made of good ones: bytes, JSON and messages. All from one `Random`."""

import json
import math
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_TEXTS = ["", "\0", "a" * 5000, "\ud800", "\u202e", "%s%n", "../../etc/passwd", "{{7*7}}", "🎭" * 99, "-1", "NaN"]
_NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**40, 1e308, 1e-308, -0.0, math.nan, math.inf, 0.5]
_NESTED: list[Any] = [[], {}, [[]], [None], {"": None}, [[[[[[[[]]]]]]]], [1] * 3000, [["a"] * 50] * 3]
_FLOATS = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 0.5, -0.0]


def nasty(rng: Random) -> Any:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_TEXTS)
    return rng.choice(_NUMBERS) if kind < 0.75 else rng.choice([None, True, False, *_NESTED])


def with_changed_bytes(data: bytes, rng: Random) -> bytes:
    """One to four changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.randint(1, 16)]
            case 2:
                changed[at:at] = changed[at : at + rng.randint(1, 64)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randint(1, 16))
            case _:
                changed = changed[:at] if rng.random() < 0.3 else changed
    return bytes(changed)


def with_changed_fields(value: Any, rng: Random) -> Any:
    """A copy of a JSON value, some of whose parts are something else, missing, or more."""
    if rng.random() < 0.12:
        return nasty(rng)
    if isinstance(value, dict):
        items = {key: with_changed_fields(one, rng) for key, one in value.items() if rng.random() > 0.04}
        if rng.random() < 0.15:
            items[str(rng.choice(["x", "", "n", "stop", "logit_bias", "stream_options", "tools", "\0"]))] = nasty(rng)
        return items
    if isinstance(value, list):
        return [with_changed_fields(one, rng) for one in value] * rng.choice([1, 1, 1, 0, 2])
    return value


def body(good: Any, rng: Random) -> bytes:
    """Of an HTTP request: mostly JSON still."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randint(0, 300))
    if kind < 0.13:
        return rng.choice([b"[", b'{"a":', b'"']) * rng.choice([1, 1000, 60_000])
    text = json.dumps(with_changed_fields(good, rng)).encode(errors="surrogatepass")
    return with_changed_bytes(text, rng) if kind < 0.45 else text


def scramble(message: Message, rng: Random, depth: int = 0) -> Message:
    """Sets, changes and clears fields, in place: the message can still be read, and makes no sense."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.8:
            continue
        if rng.random() < 0.2:
            message.ClearField(field.name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            _scramble_message(message, field, rng, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(_scalar(field, rng) for _ in range(rng.choice([1, 2, 40])))
        else:
            setattr(message, field.name, _scalar(field, rng))
    return message


def _scramble_message(message: Message, field: FieldDescriptor, rng: Random, depth: int) -> None:
    part = getattr(message, field.name)
    if field.message_type.GetOptions().map_entry:
        part[rng.randrange(2**31)] = rng.choice(_FLOATS)
    elif not field.is_repeated:
        part.SetInParent()
        if depth < 4:
            scramble(part, rng, depth + 1)
    elif len(part) and rng.random() < 0.7:
        scramble(rng.choice(part), rng, depth + 1)
    elif depth < 4:
        scramble(part.add(), rng, depth + 1)


def _scalar(field: FieldDescriptor, rng: Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.randint(0, 64))
            return rng.choice([text for text in _TEXTS if text != "\ud800"])
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice(_FLOATS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.randrange(8)
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice([0, 1, -1, 2**31 - 1, -(2**31)])
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice([0, 1, -1, 2**63 - 1, -(2**63)])
        case FieldDescriptor.CPPTYPE_UINT32:
            return rng.choice([0, 1, 2, 3, 7, 100, 2**31, 2**32 - 1])
        case _:
            return rng.choice([0, 1, 2**63, 2**64 - 1])
