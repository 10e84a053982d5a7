"""Runs parsers over texts in pieces, and joins what they say."""

from collections.abc import Iterable, Sequence

from cluster.ingress.chat.events import AnswerParser, CallArguments, CallBegins, Content, Event, Reasoning
from cluster.ingress.chat.request import Tool

WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "units": {"type": "object"},
            "precise": {"type": "boolean"},
            "tags": {"type": "array"},
            "share": {"type": ["number", "null"]},
        },
    },
)
NOW = Tool(name="now")
TOOLS = (WEATHER, NOW)


def joined(events: Iterable[Event]) -> list[Event]:
    """With neighbours of one kind made one; no piece is empty."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, CallBegins):
            found.append(event)
            continue
        assert event.text
        if isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            found[-1] = CallArguments(event.index, last.text + event.text)
        elif isinstance(event, Content) and isinstance(last, Content):
            found[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            found[-1] = Reasoning(last.text + event.text)
        else:
            found.append(event)
    return found


def read(parser: AnswerParser, pieces: Sequence[str]) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        events += parser.push(piece)
    return joined([*events, *parser.finish()])


def call(name: str, arguments: str, index: int = 0, call_id: str = "") -> list[Event]:
    return [CallBegins(index, name, call_id), CallArguments(index, arguments)]
