"""Qwen3-Coder's elements: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`."""

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
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_VALUE_ENDS = Markers(_PARAMETER_END, _PARAMETER, _FUNCTION_END)


@dataclass(frozen=True, slots=True)
class Qwen3Coder:
    """Several calls: one element after another. No ids. The outer element may be missing.

    A value is text where the schema says string, or nothing; else it is read as JSON, or as Python, where it is that.
    A grammar writes all arguments as one JSON object where the parameters would stand.
    """

    name: str = "qwen3_coder"
    aliases: tuple[str, ...] = ("qwen3_xml",)
    shown: tuple[str, ...] = (_BEGIN, _END)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (_BEGIN,)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        types = ArgumentTypes(tools)

        def read(source: Source, marker: str) -> Waiting[None]:
            if marker == _BEGIN:
                yield from source.space()
                yield from source.expect(_FUNCTION)
            yield from _read_function(source, types)
            yield from source.space()
            yield from source.closing(_END)

        return ScriptParser(marked_calls(Markers(_BEGIN, _FUNCTION), read), held=held)

    def tag(self, tool: Tool) -> Tag:
        begin, end = f"{_BEGIN}\n{_FUNCTION}{tool.name}>\n", f"\n{_FUNCTION_END}\n{_END}"
        return Tag(begin, arguments_schema(tool), end)


def _read_function(source: Source, types: ArgumentTypes) -> Waiting[None]:
    name = (yield from source.run(_is_of_name)).strip()
    yield from source.expect(">")
    yield from source.space()
    if (yield from source.peek()) == "{":
        yield from pass_arguments(source, name)
        yield from source.space()
        yield from source.closing(_FUNCTION_END)
    elif not name:
        raise MalformedCallError
    else:
        yield from _read_parameters(source, name, types)


def _read_parameters(source: Source, name: str, types: ArgumentTypes) -> Waiting[None]:
    """Up to the function's end; parameters may lack theirs."""
    is_first = True
    end = ""
    while end != _FUNCTION_END:
        yield from source.space()
        if end != _PARAMETER and not (yield from source.literal(_PARAMETER)):
            if not (yield from source.literal(_FUNCTION_END)) and not (yield from source.literal(_END)):
                raise MalformedCallError
            break
        key = (yield from source.run(_is_of_name)).strip()
        yield from source.expect(">")
        if is_first:
            source.begin_call(name)
        source.add_arguments(f"{'{' if is_first else ', '}{quoted(key)}: ")
        is_first = False
        end = yield from _read_value(source, types.of(name, key))
    if is_first:
        source.begin_call(name)
    source.add_arguments("{}" if is_first else "}")
    source.end_call()


def _read_value(source: Source, types: frozenset[str]) -> Waiting[str]:
    """Gives back the marker that ended it."""
    if types <= {"string"}:
        end = yield from put_text(source, source.add_arguments, _VALUE_ENDS, is_framed=True)
    else:
        parts: list[str] = []
        end = yield from source.until(_VALUE_ENDS, parts.append)
        if end:
            source.add_arguments(json_of("".join(parts), types))
    if not end:
        raise MalformedCallError
    return end


def _is_of_name(character: str) -> bool:
    return character not in "<>\r\n"
