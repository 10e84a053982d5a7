"""Kimi K2: a section of calls, each with an id such as `functions.get_weather:0` that names the tool."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import pass_arguments
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.script_parser import ScriptParser, marked_calls
from cluster.ingress.chat.formats.source import Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_SECTIONS = (SECTION, "<|tool_call_section_begin|>")  # some models write it so
_SECTION_ENDS = (SECTION_END, "<|tool_call_section_end|>")
_PREFIX = "functions."


@dataclass(frozen=True, slots=True)
class Kimi:
    """Several calls: one after another in the section. Ids are the model's, but for one that it repeats."""

    name: str = "kimi_k2"
    aliases: tuple[str, ...] = ("kimi",)
    shown: tuple[str, ...] = (*_SECTIONS, *_SECTION_ENDS, _CALL, _ARGUMENTS, _CALL_END)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (SECTION,)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        used: set[str] = set()

        def read(source: Source, marker: str) -> Waiting[None]:
            yield from source.space()
            while (yield from source.literal(_CALL)):
                yield from _read_call(source, used)
                yield from source.space()
            for end in _SECTION_ENDS:
                yield from source.closing(end)

        return ScriptParser(marked_calls(Markers(*_SECTIONS), read), held=held)

    def tag(self, tool: Tool) -> Tag:
        begin = f"{SECTION}{_CALL}{_PREFIX}{tool.name}:0{_ARGUMENTS}"
        return Tag(begin, arguments_schema(tool), _CALL_END + SECTION_END)


def _read_call(source: Source, used: set[str]) -> Waiting[None]:
    call_id = (yield from source.run(_is_of_line)).strip()
    yield from source.expect(_ARGUMENTS)
    name, _, number = call_id.rpartition(":")
    if not number.isdecimal():
        name = call_id
    name = name.removeprefix(_PREFIX)
    yield from pass_arguments(source, name, _free_id(call_id, name, used))
    yield from source.space()
    yield from source.closing(_CALL_END)


def _free_id(call_id: str, name: str, used: set[str]) -> str:
    number = len(used)
    while call_id in used:
        call_id, number = f"{_PREFIX}{name}:{number}", number + 1
    used.add(call_id)
    return call_id


def _is_of_line(character: str) -> bool:
    return character not in "<\r\n"
