"""What an answer to a chat is made of, piece by piece: parsers of a model's formats say it, answers' shapes read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """The model calls a function. Once per call, before its arguments; calls are numbered from 0 in one answer.

    Attributes:
        call_id: What the model itself calls it by; empty where its format has no ids.
    """

    index: int
    name: str
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments; all pieces joined are one JSON object."""

    index: int
    text: str


Event = Content | Reasoning | CallBegins | CallArguments


class AnswerParser(Protocol):
    """Reads one choice's text as it comes. The joined events do not depend on how the text was cut into pieces."""

    def push(self, text: str) -> Sequence[Event]: ...

    def finish(self) -> Sequence[Event]:
        """The answer has ended: what was held back, as content where it makes no call."""
        ...
