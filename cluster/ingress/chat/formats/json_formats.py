"""Formats whose calls are JSON objects between two marks: one object, or a list of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import read_calls
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.script_parser import ScriptParser, marked_calls
from cluster.ingress.chat.formats.source import Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema, names_of, quoted
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFormat:
    """`begin`, then `{"name": ..., "arguments": {...}}` or a list of such objects, then `end`. No ids.

    Attributes:
        begin: The marks that may stand before calls, the usual one first.
        is_list: The models write lists: several calls are one list. Otherwise each call has its marks.
        line: What stands between marks and call where a grammar writes them.
    """

    name: str
    begin: tuple[str, ...]
    end: str = ""
    aliases: tuple[str, ...] = ()
    is_list: bool = False
    line: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        return (*self.begin, self.end) if self.end else self.begin

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return self.begin[:1]

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        names = names_of(tools)

        def read(source: Source, marker: str) -> Waiting[None]:
            yield from read_calls(source, names)
            if self.end:
                yield from source.space()
                yield from source.closing(self.end)

        return ScriptParser(marked_calls(Markers(*self.begin), read), held=held)

    def tag(self, tool: Tool) -> Tag:
        opening, closing = ("[", "]") if self.is_list else ("", "")
        begin = f'{self.begin[0]}{self.line}{opening}{{"name": {quoted(tool.name)}, "arguments": '
        return Tag(begin, arguments_schema(tool), f"}}{closing}{self.line if self.end else ''}{self.end}")


HERMES = JsonFormat(
    name="hermes",
    aliases=("qwen", "qwen2", "qwen25", "qwen3", "granite4"),
    begin=("<tool_call>",),
    end="</tool_call>",
    line="\n",
)
LONGCAT = JsonFormat(name="longcat", begin=("<longcat_tool_call>",), end="</longcat_tool_call>", line="\n")
GRANITE = JsonFormat(name="granite", aliases=("granite3",), begin=("<|tool_call|>", "<tool_call>"), is_list=True)
GRANITE_20B = JsonFormat(name="granite-20b-fc", aliases=("granite_20b_fc",), begin=("<function_call>",), line=" ")
JAMBA = JsonFormat(name="jamba", begin=("<tool_calls>",), end="</tool_calls>", is_list=True)
