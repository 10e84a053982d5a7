"""GLM 4.5 to 4.7: `<tool_call>NAME <arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import pass_arguments
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.script_parser import ScriptParser, marked_calls
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema, quoted
from cluster.ingress.chat.formats.typed_values import ArgumentTypes, json_of, put_text
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag

_BEGIN, _END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_VALUE_ENDS = Markers(_VALUE_END)


@dataclass(frozen=True, slots=True)
class Glm:
    """Several calls: one element after another. No ids.

    A value is text where the schema says string; else it is read as JSON, or as Python, where it is that.
    A grammar writes all arguments as one JSON object where the keys would stand.
    """

    name: str = "glm45"
    aliases: tuple[str, ...] = ("glm47", "glm", "glm4_moe")
    shown: tuple[str, ...] = (_BEGIN, _END, _KEY, _KEY_END, _VALUE, _VALUE_END)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (_BEGIN,)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        types = ArgumentTypes(tools)

        def read(source: Source, marker: str) -> Waiting[None]:
            name = (yield from source.run(_is_of_name)).strip()
            yield from source.space()
            if (yield from source.peek()) == "{":
                yield from pass_arguments(source, name)
                yield from source.space()
                yield from source.closing(_END)
            else:
                yield from _read_pairs(source, name, types)

        return ScriptParser(marked_calls(Markers(_BEGIN), read), held=held)

    def tag(self, tool: Tool) -> Tag:
        return Tag(f"{_BEGIN}{tool.name}\n", arguments_schema(tool), f"\n{_END}")


def _read_pairs(source: Source, name: str, types: ArgumentTypes) -> Waiting[None]:
    is_first = True
    while (yield from source.literal(_KEY)):
        key = (yield from source.run(_is_of_key)).strip()
        yield from source.expect(_KEY_END)
        yield from source.space()
        yield from source.expect(_VALUE)
        if not name:
            raise MalformedCallError
        if is_first:
            source.begin_call(name)
        source.add_arguments(f"{'{' if is_first else ', '}{quoted(key)}: ")
        is_first = False
        yield from _read_value(source, types.of(name, key))
        yield from source.space()
    yield from source.expect(_END)
    if not name:
        raise MalformedCallError
    if is_first:
        source.begin_call(name)
    source.add_arguments("{}" if is_first else "}")
    source.end_call()


def _read_value(source: Source, types: frozenset[str]) -> Waiting[None]:
    if types == {"string"}:
        end = yield from put_text(source, source.add_arguments, _VALUE_ENDS, is_framed=False)
    else:
        parts: list[str] = []
        end = yield from source.until(_VALUE_ENDS, parts.append)
        if end:
            source.add_arguments(json_of("".join(parts), types))
    if not end:
        raise MalformedCallError


def _is_of_name(character: str) -> bool:
    return character not in "<{\r\n"


def _is_of_key(character: str) -> bool:
    return character != "<"
