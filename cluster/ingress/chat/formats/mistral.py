"""Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, and of newer models `[TOOL_CALLS]name[ARGS]{...}`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import pass_arguments, read_calls
from cluster.ingress.chat.formats.markers import SPACE, Markers
from cluster.ingress.chat.formats.script_parser import ScriptParser, marked_calls
from cluster.ingress.chat.formats.source import Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema, names_of, quoted
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag

_BEGIN, _ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


@dataclass(frozen=True, slots=True)
class Mistral:
    """Either form is read; ids where the model writes them, as member `id` or behind `[CALL_ID]`.

    Several calls are one list, or one after another, each with its marks.

    Attributes:
        has_args: The model is a newer one: this is how a grammar writes calls.
    """

    has_args: bool = False
    name: str = "mistral"
    aliases: tuple[str, ...] = ()
    shown: tuple[str, ...] = (_BEGIN, _ID, ARGS)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (_BEGIN,)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        names = names_of(tools)

        def read(source: Source, marker: str) -> Waiting[None]:
            yield from _read(source, names)

        return ScriptParser(marked_calls(Markers(_BEGIN), read), held=held)

    def tag(self, tool: Tool) -> Tag:
        if self.has_args:
            return Tag(f"{_BEGIN}{tool.name}{ARGS}", arguments_schema(tool), "")
        return Tag(f'{_BEGIN}[{{"name": {quoted(tool.name)}, "arguments": ', arguments_schema(tool), "}]")


def _read(source: Source, names: Collection[str]) -> Waiting[None]:
    yield from source.space()
    if (yield from source.peek()) in ("[", "{"):
        yield from read_calls(source, names)
        return
    name = yield from source.run(_is_of_name)
    yield from source.space()
    call_id = ""
    if (yield from source.literal(_ID)):
        call_id = yield from source.run(_is_of_name)
    yield from source.literal(ARGS)
    yield from pass_arguments(source, name, call_id)


def _is_of_name(character: str) -> bool:
    return character not in "[{" and character not in SPACE
