"""Llama 3.2 and 4 as Python: `[get_weather(city="Paris", days=2), now()]`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import pass_arguments
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.python_literal import put_literal
from cluster.ingress.chat.formats.script_parser import ScriptParser, marked_calls
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema, names_of, quoted
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag

_BEGIN, _END = "<|python_start|>", "<|python_end|>"


@dataclass(frozen=True, slots=True)
class Pythonic:
    """A list of calls of the request's tools; any other list is content. Arguments become JSON as they come. No ids.

    A grammar writes arguments as `**{...}`, which is Python too, in JSON's own words.
    """

    name: str = "pythonic"
    aliases: tuple[str, ...] = ("llama4_pythonic", "llama_pythonic", "llama4")
    shown: tuple[str, ...] = (_BEGIN, _END)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return tuple(f"[{tool.name}(" for tool in tools)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        names = names_of(tools)

        def read(source: Source, marker: str) -> Waiting[None]:
            if marker == _BEGIN:
                yield from source.space()
            else:
                source.put_back(marker)
            yield from source.expect("[")
            yield from _calls(source, names)
            yield from source.space()
            yield from source.closing(_END)

        return ScriptParser(marked_calls(Markers(_BEGIN, *self.triggers(tools)), read), held=held)

    def tag(self, tool: Tool) -> Tag:
        return Tag(f"[{tool.name}(**", arguments_schema(tool), ")]")


def _calls(source: Source, names: Collection[str]) -> Waiting[None]:
    yield from source.space()
    while not (yield from source.literal("]")):
        name = yield from source.run(_is_of_name)
        yield from source.expect("(")
        if name not in names:
            raise MalformedCallError
        yield from _arguments(source, name)
        yield from source.space()
        if (yield from source.literal(",")):
            yield from source.space()
        elif (yield from source.peek()) not in ("]", ""):
            raise MalformedCallError
        elif not (yield from source.peek()):
            return


def _is_of_name(character: str) -> bool:
    return character.isalnum() or character in "_.-"


def _arguments(source: Source, name: str) -> Waiting[None]:
    yield from source.space()
    if (yield from source.literal("**")):
        yield from pass_arguments(source, name)
        yield from source.space()
        yield from source.closing(")")
        return
    is_first = True
    while not (yield from source.literal(")")):
        key = yield from source.run(_is_of_name)
        yield from source.space()
        yield from source.expect("=")
        if not key:
            raise MalformedCallError
        if is_first:
            source.begin_call(name)
        source.add_arguments(f"{'{' if is_first else ', '}{quoted(key)}: ")
        is_first = False
        yield from put_literal(source, source.add_arguments)
        yield from source.space()
        if (yield from source.literal(",")):
            yield from source.space()
        elif (yield from source.peek()) != ")":
            raise MalformedCallError
    if is_first:
        source.begin_call(name)
    source.add_arguments("{}" if is_first else "}")
    source.end_call()
