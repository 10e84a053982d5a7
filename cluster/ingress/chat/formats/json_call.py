"""Calls that models write as JSON: an object with a name and arguments, or arguments after a name."""

from collections.abc import Collection
from dataclasses import dataclass

from cluster.ingress.chat.formats.json_reading import object_in, pass_value, read_string, read_value, string_in
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting

_ARGUMENTS = ("arguments", "parameters")


@dataclass(slots=True)
class _Call:
    """What is known of a call while its object is read; `arguments` came before the name."""

    name: str = ""
    call_id: str = ""
    arguments: str | None = None
    is_whole: bool = False


def read_call(source: Source, tools: Collection[str], *, any_name: bool = True) -> Waiting[None]:
    """Reads `{"name": ..., "arguments": {...}}`, in any order, `parameters` for arguments, and other members besides.

    Arguments may be a text of JSON, or be left out by a call of one of the tools. Once name and arguments are there,
    the call is made: a missing bracket behind them is forgiven.

    Args:
        tools: The request's.
        any_name: A name that is none of theirs makes a call too, and unknown members are skipped. Otherwise either
            makes it no call, at once, and so do missing arguments: it may be JSON that the user asked for.
    Raises:
        MalformedCallError: There is no call; what is read of it can be given up.
    """
    call = _Call()
    yield from _read_members(source, call, tools, any_name)
    if not call.is_whole:
        if not any_name or call.name not in tools:
            raise MalformedCallError
        _make(source, call, "{}")


def read_calls(source: Source, tools: Collection[str]) -> Waiting[None]:
    """Reads a list of such objects, or one alone; a missing bracket behind the last is forgiven."""
    yield from source.space()
    if not (yield from source.literal("[")):
        yield from read_call(source, tools)
        return
    yield from source.space()
    while not (yield from source.literal("]")):
        yield from read_call(source, tools)
        yield from source.space()
        if (yield from source.literal(",")):
            yield from source.space()
        elif (yield from source.peek()) != "]":
            return


def _read_members(source: Source, call: _Call, tools: Collection[str], any_name: bool) -> Waiting[None]:
    yield from source.expect("{")
    yield from source.space()
    while not (yield from source.literal("}")):
        key = yield from read_string(source)
        yield from source.space()
        yield from source.expect(":")
        if key == "name" and not call.name:
            call.name = yield from read_string(source)
            if not call.name or not (any_name or call.name in tools):
                raise MalformedCallError
            if call.arguments is not None:
                _make(source, call, _object_text(call.arguments))
        elif key in _ARGUMENTS and not call.is_whole and call.arguments is None:
            yield from _read_arguments(source, call)
        elif key == "id" and not call.name:
            call.call_id = yield from _read_id(source)
        elif any_name or key == "type":
            yield from read_value(source)
        else:
            raise MalformedCallError
        yield from source.space()
        if (yield from source.literal(",")):
            yield from source.space()
        elif (yield from source.peek()) != "}":
            if call.is_whole:
                return
            raise MalformedCallError


def _read_id(source: Source) -> Waiting[str]:
    yield from source.space()
    is_text = (yield from source.peek()) == '"'
    return (yield from read_string(source)) if is_text else (yield from read_value(source))


def _read_arguments(source: Source, call: _Call) -> Waiting[None]:
    yield from source.space()
    if not call.name:
        call.arguments = yield from read_value(source)
    elif (yield from source.peek()) == "{":
        yield from pass_arguments(source, call.name, call.call_id)
        call.is_whole = True
    else:
        _make(source, call, _object_text((yield from read_value(source))))


def _make(source: Source, call: _Call, arguments: str) -> None:
    source.begin_call(call.name, call.call_id)
    source.add_arguments(arguments)
    source.end_call()
    call.is_whole = True


def _object_text(value: str) -> str:
    """Of arguments as an object, as a text that is one, or as null. Raises: MalformedCallError: they are none."""
    if value.startswith("{"):
        return value
    if value == "null":
        return "{}"
    text = string_in(value) if value.startswith('"') else ""
    if object_in(text) is None:
        raise MalformedCallError
    return text


def pass_arguments(source: Source, name: str, call_id: str = "") -> Waiting[None]:
    """Reads one JSON object as the call's arguments, passed on unchanged. Raises: MalformedCallError."""
    yield from source.space()
    if not name or (yield from source.peek()) != "{":
        raise MalformedCallError
    source.begin_call(name, call_id)
    yield from pass_value(source, source.add_arguments)
    source.end_call()
