"""Events of an answer as OpenAI's chats write them: parts of a stream's deltas, and whole messages."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cluster.ingress.chat.events import CallArguments, CallBegins, Content, Event, Reasoning


def delta_bodies(events: Iterable[Event]) -> list[dict[str, Any]]:
    """One `delta` for each part; texts of one kind in a row are one."""
    return [_delta(event) for event in joined(events)]


def message_body(parts: str | Sequence[Event]) -> dict[str, Any]:
    """The whole `message`: of a text, or of all events of an answer. Content is null beside calls alone."""
    if isinstance(parts, str):
        return {"role": "assistant", "content": parts, "refusal": None}
    events = list(joined(parts))
    content = "".join(event.text for event in events if isinstance(event, Content))
    reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
    calls = _calls(events)
    body: dict[str, Any] = {"role": "assistant", "content": None if calls and not content else content, "refusal": None}
    if reasoning:
        body |= {"reasoning_content": reasoning, "reasoning": reasoning}
    return body | {"tool_calls": calls} if calls else body


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """The same events, pieces of text in a row as one."""
    kind: type[Content] | type[Reasoning] | int | None = None
    texts: list[str] = []
    for event in events:
        if isinstance(event, CallBegins):
            yield from _flushed(kind, texts)
            kind, texts = None, []
            yield event
            continue
        own = event.index if isinstance(event, CallArguments) else type(event)
        if own != kind:
            yield from _flushed(kind, texts)
            kind, texts = own, []
        texts.append(event.text)
    yield from _flushed(kind, texts)


def _flushed(kind: type[Content] | type[Reasoning] | int | None, texts: list[str]) -> Iterator[Event]:
    text = "".join(texts)
    if kind is None or not text:
        return
    yield CallArguments(kind, text) if isinstance(kind, int) else kind(text)


def _delta(event: Event) -> dict[str, Any]:
    if isinstance(event, Content):
        return {"content": event.text}
    if isinstance(event, Reasoning):
        return {"reasoning_content": event.text, "reasoning": event.text}
    if isinstance(event, CallBegins):
        return {"tool_calls": [{"index": event.index, **_call(event)}]}
    return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}


def _call(begin: CallBegins) -> dict[str, Any]:
    return {"id": begin.call_id, "type": "function", "function": {"name": begin.name, "arguments": ""}}


def _calls(events: Iterable[Event]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, CallBegins):
            calls[event.index] = _call(event)
        elif isinstance(event, CallArguments):
            calls[event.index]["function"]["arguments"] += event.text
    return list(calls.values())
