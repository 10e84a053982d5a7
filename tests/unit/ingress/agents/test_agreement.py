"""What is streamed adds up to what is sent whole, whatever the model writes."""

from typing import Any

import anthropic
import openai
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ingress.answer import Delta
from cluster.ingress.answer_parts import Kind, Logprobs, Part, Parts
from cluster.ingress.chat.events import CallArguments, CallBegins, Content, Event, Reasoning
from tests.unit.ingress.agents.answers import ANSWERS, MESSAGES_TOOLS, RESPONSES_TOOLS
from tests.unit.ingress.fakes import FakeDispatcher

IDS = {"id", "call_id", "created_at", "completed_at"}


async def test_responses_agree(client: openai.AsyncOpenAI, fake: FakeDispatcher) -> None:
    asked: dict[str, Any] = {"model": "demo", "input": "Hi", "tools": RESPONSES_TOOLS}
    for answer in ANSWERS.values():
        fake.answer = answer
        whole = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            deltas: dict[int, str] = {}
            async for event in stream:
                if event.type.endswith(".delta"):
                    index: int = event.output_index  # type: ignore[union-attr]
                    deltas[index] = deltas.get(index, "") + event.delta  # type: ignore[union-attr]
            final = await stream.get_final_response()
        assert without(final.to_dict(), IDS) == without(whole.to_dict(), IDS)
        assert [deltas.get(index, "") for index in range(len(whole.output))] == [text_of(item) for item in whole.output]


def text_of(item: Any) -> str:
    text: str = item.arguments if item.type == "function_call" else item.content[0].text
    return text


async def test_messages_agree(claude: anthropic.AsyncAnthropic, fake: FakeDispatcher) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    asked: dict[str, Any] = {"model": "demo", "max_tokens": 99, "messages": messages, "tools": MESSAGES_TOOLS}
    for answer in ANSWERS.values():
        fake.answer = answer
        whole = await claude.messages.create(**asked)
        async with claude.messages.stream(**asked) as stream:
            final = await stream.get_final_message()
        assert without(final.to_dict(), IDS | {"parsed_output"}) == without(whole.to_dict(), IDS)


def without(value: Any, names: set[str]) -> Any:
    """And without what is null."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in names and item is not None}
        return {name: without(item, names) for name, item in kept.items()}
    return [without(item, names) for item in value] if isinstance(value, list) else value


class Noted:
    """A Writer that notes what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Kind, str]] = []

    def begin(self, part: Part) -> str:
        self.notes.append(("begin", part.kind, part.name))
        return ""

    def add(self, part: Part, text: str, logprobs: Logprobs) -> str:
        self.notes.append(("add", part.kind, text))
        return ""

    def end(self, part: Part) -> str:
        self.notes.append(("end", part.kind, part.text))
        return ""


texts = st.text("a \n", max_size=3)
calls = st.lists(st.text('{"}', min_size=1, max_size=3), max_size=3)
pieces = st.one_of(texts.map(Content), texts.filter(bool).map(Reasoning), calls)


def events_of(drawn: list[Any]) -> list[Event]:
    events: list[Event] = []
    index = 0
    for piece in drawn:
        if isinstance(piece, list):
            events.append(CallBegins(index, f"f{index}", f"c{index}"))
            events += [CallArguments(index, text) for text in piece]
            index += 1
        else:
            events.append(piece)
    return events


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=8), st.booleans())
def test_parts_begin_go_on_and_end_in_order(drawn: list[Any], is_cut: bool) -> None:
    events, noted = events_of(drawn), Noted()
    parts = Parts(noted)
    for event in events:
        parts.take(Delta(choice=0, events=[event]))
    parts.finish(is_cut=is_cut)
    at_once = Parts(Noted())
    at_once.take(Delta(choice=0, events=events))
    at_once.finish(is_cut=is_cut)
    assert at_once.parts == parts.parts
    assert parts.parts
    expected = []
    for part in parts.parts:
        expected += [("begin", part.kind, part.name), *(("add", part.kind, text) for text in part.pieces)]
        expected.append(("end", part.kind, part.text))
    assert noted.notes == expected
    assert [part.name for part in parts.parts if part.kind is Kind.CALL] == [
        event.name for event in events if isinstance(event, CallBegins)
    ]
    said = "".join(event.text for event in events if isinstance(event, Content))
    shown = "".join(part.text for part in parts.parts if part.kind is Kind.TEXT)
    assert "".join(shown.split()) == "".join(said.split())
    assert [part.index for part in parts.parts] == list(range(len(parts.parts)))
