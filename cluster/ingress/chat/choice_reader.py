"""Reads one choice's text as the events that its client sees."""

import secrets
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cluster.ingress.chat.events import AnswerParser, CallBegins, Content, Event, Reasoning

_ID_CHARACTERS = string.ascii_letters + string.digits


class ChoiceReader:
    """An AnswerParser around a model's: every call has an id, and what the request does not want is left out.

    Attributes:
        is_over: Nothing that comes now would be seen: the answer may end.
        is_thinking: What was read last is reasoning.
    """

    def __init__(
        self,
        parser: AnswerParser,
        *,
        new_id: Callable[[], str],
        max_calls: int | None = None,
        shows_reasoning: bool = True,
        is_thinking: bool = False,
    ) -> None:
        self._parser = parser
        self._new_id = new_id
        self._max_calls = max_calls
        self._shows_reasoning = shows_reasoning
        self.is_over = False
        self.is_thinking = is_thinking

    def push(self, text: str) -> Sequence[Event]:
        events = self._parser.push(text)
        if len(events) == 1 and type(events[0]) is Content and not self.is_over:  # nearly always
            self.is_thinking = False
            return events
        return self._seen(events)

    def finish(self) -> Sequence[Event]:
        return self._seen(self._parser.finish())

    def _seen(self, events: Iterable[Event]) -> Sequence[Event]:
        seen: list[Event] = []
        for event in events:
            self.is_thinking = isinstance(event, Reasoning)
            if isinstance(event, CallBegins):
                if event.index == self._max_calls:
                    self.is_over = True
                elif not event.call_id:
                    event = replace(event, call_id=self._new_id())
            if not (self.is_over or (self.is_thinking and not self._shows_reasoning)):
                seen.append(event)
        return seen


def call_id() -> str:
    """As OpenAI's look; unique."""
    return f"call_{secrets.token_hex(12)}"


def short_call_id() -> str:
    """Nine letters and digits: what templates of Mistral's models want."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))
