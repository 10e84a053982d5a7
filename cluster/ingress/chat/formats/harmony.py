"""GPT-OSS's harmony: messages in channels. `analysis` is thinking, `final` content, `commentary` calls or a preamble.

<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.now
<|constrain|>json<|message|>{}<|call|>
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.formats.json_call import pass_arguments
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.script_parser import ScriptParser
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting
from cluster.ingress.chat.formats.tool_format import arguments_schema, names_of
from cluster.ingress.chat.request import Tool
from cluster.ingress.structured.output import Tag

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_SHOWN = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _END, _CALL, _RETURN)
_HEADS = (_CHANNEL, _START, "to=", "assistant")  # the prompt has written some of the first message's head
_HEAD_ENDS = Markers(_MESSAGE, _END, _CALL, _RETURN)
_BODY_ENDS = Markers(_END, _CALL, _RETURN, _START)
_CALL_ENDS = (_CALL, _END, _RETURN)
_NEXT = Markers(_START, _CHANNEL)
_FUNCTIONS = "functions."
_TO = re.compile(r"\bto=([^\s<]+)")
_IN = re.compile(r"<\|channel\|>\s*(\w+)")


@dataclass(frozen=True, slots=True)
class Harmony:
    """Calls and thinking at once. A call ends the answer; no ids. What is sent to other tools is thinking."""

    name: str = "openai"
    aliases: tuple[str, ...] = ("harmony", "gpt_oss", "openai_gptoss")
    shown: tuple[str, ...] = _SHOWN

    def triggers(self, tools: Sequence[Tool]) -> tuple[str, ...]:
        return (f"{_CHANNEL}commentary to={_FUNCTIONS}",)

    def parser(self, tools: Sequence[Tool], *, held: bool = False) -> AnswerParser:
        names = names_of(tools)

        def script(source: Source) -> Waiting[None]:
            while (yield from source.peek()):
                try:
                    yield from _read_message(source, names)
                except MalformedCallError:
                    source.give_up()
                    yield from _pass_content(source)

        return ScriptParser(script, held=held)

    def tag(self, tool: Tool) -> Tag:
        begin = f"{_CHANNEL}commentary to={_FUNCTIONS}{tool.name} {_CONSTRAIN}json{_MESSAGE}"
        return Tag(begin, arguments_schema(tool), "")


@dataclass(frozen=True, slots=True)
class HarmonyThinking:
    """A ReasoningFormat's surface, for what `Harmony` reads."""

    name: str = "openai_gptoss"
    aliases: tuple[str, ...] = ("harmony", "gpt_oss", "openai")
    shown: tuple[str, ...] = _SHOWN
    begin: tuple[str, ...] = (f"{_CHANNEL}analysis{_MESSAGE}",)
    end: tuple[str, ...] = (f"{_END}{_START}assistant",)
    content_head: str = f"{_CHANNEL}final{_MESSAGE}"

    def is_opened(self, prompt: str) -> bool:
        return prompt.endswith(self.begin)


def _read_message(source: Source, names: frozenset[str]) -> Waiting[None]:
    source.begin_attempt()
    yield from source.space()
    head = yield from _read_head(source)
    to, channel = _TO.search(head), _IN.search(head)
    name = to.group(1).removeprefix(_FUNCTIONS) if to else ""
    if to and names and (to.group(1).startswith(_FUNCTIONS) or name in names):
        yield from _read_call(source, name)
        return
    source.drop_attempt()
    is_thinking = to is not None or (channel is not None and channel.group(1) == "analysis")
    yield from _pass_body(source, source.add_reasoning if is_thinking else source.add_content)


def _read_head(source: Source) -> Waiting[str]:
    """Empty where the answer ends in the middle of one. Raises: MalformedCallError: there is none."""
    for begin in _HEADS:
        if (yield from source.literal(begin)):
            parts = [begin]
            marker = yield from source.until(_HEAD_ENDS, parts.append)
            if marker == _MESSAGE:
                return "".join(parts)
            if not marker and begin in (_START, _CHANNEL):
                return ""
            break
    raise MalformedCallError


def _read_call(source: Source, name: str) -> Waiting[None]:
    yield from source.space()
    if (yield from source.peek()) in ("<", ""):
        for end in _CALL_ENDS:
            if (yield from source.literal(end)):
                break
        else:
            if (yield from source.peek()):
                raise MalformedCallError
        source.begin_call(name)
        source.add_arguments("{}")
        source.end_call()
    else:
        yield from pass_arguments(source, name)
        yield from source.space()
        for end in _CALL_ENDS:
            yield from source.closing(end)
    source.end_attempt()


def _pass_body(source: Source, put: Callable[[str], None]) -> Waiting[None]:
    marker = yield from source.until(_BODY_ENDS, put)
    if marker == _START:
        source.put_back(marker)


def _pass_content(source: Source) -> Waiting[None]:
    """Text without a head, up to the next message."""
    marker = yield from source.until(_NEXT, source.add_content)
    if marker:
        source.put_back(marker)
