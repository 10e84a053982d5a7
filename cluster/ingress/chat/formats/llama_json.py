"""Llama 3.1 to 4 in JSON: `{"name": ..., "parameters": {...}}`, `;` between several, or behind `<|python_tag|>`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import read_call
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.script_parser import ScriptParser, attempted
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema, names_of, quoted
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag

_MARK = "<|python_tag|>"
_BARE = '{"name"'
_MARKERS = Markers(_MARK, _BARE)


@dataclass(frozen=True, slots=True)
class LlamaJson:
    """Without its mark a call is JSON like any other: it must name a tool of the request, or it is content. No ids."""

    name: str = "llama3_json"
    aliases: tuple[str, ...] = ("llama3", "llama4_json")
    shown: tuple[str, ...] = (_MARK,)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (_BARE,)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        names = names_of(tools)

        def script(source: Source) -> Waiting[None]:
            yield from _at_the_beginning(source, names)
            while marker := (yield from source.content(_MARKERS)):
                if marker == _BARE:
                    source.put_back(marker)
                yield from attempted(source, _calls(source, names, any_name=marker == _MARK))

        return ScriptParser(script, held=held)

    def tag(self, tool: Tool) -> Tag:
        return Tag(f'{{"name": {quoted(tool.name)}, "parameters": ', arguments_schema(tool), "}")


def _at_the_beginning(source: Source, names: Collection[str]) -> Waiting[None]:
    """An object there may have other members first, and other space."""
    source.begin_attempt()
    yield from source.space()
    if (yield from source.peek()) == "{":
        yield from attempted(source, _calls(source, names, any_name=False))
    else:
        source.give_back()


def _calls(source: Source, names: Collection[str], *, any_name: bool) -> Waiting[None]:
    while True:
        yield from source.space()
        yield from read_call(source, names, any_name=any_name)
        yield from source.space()
        has_more = yield from source.literal(";")
        yield from source.space()
        following = yield from source.peek()
        if following != "{":
            if has_more and following:
                raise MalformedCallError
            return
