"""The parser of one answer: thinking first, then content with calls in it."""

from collections.abc import Sequence

from cluster.ingress.chat.events import AnswerParser, Content, Event
from cluster.ingress.chat.formats.harmony import Harmony, HarmonyThinking
from cluster.ingress.chat.formats.reasoning_format import MarkedThinking, ReasoningFormat
from cluster.ingress.chat.formats.thinking import ThinkingParser
from cluster.ingress.chat.formats.tool_format import ToolFormat
from cluster.ingress.chat.request import Tool


def answer_parser(
    reasoning: ReasoningFormat | None,
    tool_format: ToolFormat | None,
    *,
    prompt: str,
    tools: Sequence[Tool] = (),
    held: bool = False,
) -> AnswerParser | None:
    """Of one choice. None: its text is content as it stands.

    Args:
        prompt: The rendered one, or its end: it tells whether the template has opened the thinking already.
        tools: Those that may be called; none: calls are not looked for.
        held: See ToolFormat.parser.
    """
    if isinstance(tool_format, Harmony) or isinstance(reasoning, HarmonyThinking):
        return Harmony().parser(tools if isinstance(tool_format, Harmony) else (), held=held)  # of both at once
    calls = tool_format.parser(tools, held=held) if tool_format is not None and tools else None
    if not isinstance(reasoning, MarkedThinking):
        return calls
    thinking = reasoning.parser(is_opened=reasoning.is_opened(prompt))
    return thinking if calls is None else ThinkingThenCalls(thinking, calls)


class ThinkingThenCalls:
    """An AnswerParser of two."""

    def __init__(self, thinking: ThinkingParser, calls: AnswerParser) -> None:
        self._thinking = thinking
        self._calls = calls

    def push(self, text: str) -> Sequence[Event]:
        if self._thinking.is_over:
            return self._calls.push(text)
        return self._with_calls(self._thinking.push(text))

    def finish(self) -> Sequence[Event]:
        return [*self._with_calls(self._thinking.finish()), *self._calls.finish()]

    def _with_calls(self, events: Sequence[Event]) -> Sequence[Event]:
        if not any(isinstance(event, Content) for event in events):
            return events
        found: list[Event] = []
        for event in events:
            found += self._calls.push(event.text) if isinstance(event, Content) else (event,)
        return found
