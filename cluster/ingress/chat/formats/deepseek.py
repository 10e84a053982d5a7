"""DeepSeek: a section of calls, in V3 and R1 with the arguments in a fence of Markdown, since V3.1 bare."""

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

SECTION, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
FENCE, FENCE_END = "```json", "```"


@dataclass(frozen=True, slots=True)
class DeepSeek:
    """Either form is read. Several calls: one after another in the section. No ids.

    Attributes:
        is_fenced: V3's form, `function` + separator + name + fence; else V3.1's, name + separator.
    """

    name: str
    aliases: tuple[str, ...]
    is_fenced: bool
    shown: tuple[str, ...] = (SECTION, SECTION_END, CALL, CALL_END, SEPARATOR)

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (SECTION,)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        return ScriptParser(marked_calls(Markers(SECTION), _read_section), held=held)

    def tag(self, tool: Tool) -> Tag:
        if self.is_fenced:
            begin, end = f"{CALL}function{SEPARATOR}{tool.name}\n{FENCE}\n", f"\n{FENCE_END}{CALL_END}"
        else:
            begin, end = f"{CALL}{tool.name}{SEPARATOR}", CALL_END
        return Tag(SECTION + begin, arguments_schema(tool), end + SECTION_END)


DEEPSEEK_V3 = DeepSeek("deepseek_v3", ("deepseek_r1", "deepseek"), is_fenced=True)
DEEPSEEK_V31 = DeepSeek("deepseek_v31", (), is_fenced=False)


def _read_section(source: Source, marker: str) -> Waiting[None]:
    yield from source.space()
    while (yield from source.literal(CALL)):
        yield from _read_call(source)
        yield from source.space()
    yield from source.closing(SECTION_END)


def _read_call(source: Source) -> Waiting[None]:
    name = yield from source.run(_is_of_line)
    yield from source.expect(SEPARATOR)
    yield from source.space()
    is_fenced = (yield from source.peek()) != "{"
    if is_fenced:
        name = yield from source.run(_is_of_line)
        yield from source.space()
        yield from source.literal(FENCE)
    yield from pass_arguments(source, name.strip())
    yield from source.space()
    if is_fenced:
        yield from source.closing(FENCE_END)
        yield from source.space()
    yield from source.closing(CALL_END)


def _is_of_line(character: str) -> bool:
    return character not in "<\r\n"
