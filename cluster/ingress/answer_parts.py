"""Cuts an answer into its parts, in order, as it comes: texts, thoughts, calls. Whole and streamed answers are made of
the same parts.

White space around thoughts and calls makes no part of its own.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from baton.v1 import inference_pb2
from cluster.ingress.answer import Delta
from cluster.ingress.chat.events import CallArguments, CallBegins, Content, Event, Reasoning


class Kind(Enum):
    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"


@dataclass(slots=True)
class Part:
    """
    Attributes:
        index: Of the parts of the answer.
        name, call_id: Of the function that is called, and of the call.
        is_cut: The answer ended at its limit, in this part.
    """

    kind: Kind
    index: int
    name: str = ""
    call_id: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[inference_pb2.TokenLogprobs] = field(default_factory=list)
    is_cut: bool = False

    @property
    def text(self) -> str:
        """A text, a thought, or a call's arguments."""
        return "".join(self.pieces)


Logprobs = list[inference_pb2.TokenLogprobs]


class Writer(Protocol):
    """Says what a client is sent of each change of a part."""

    def begin(self, part: Part) -> str: ...

    def add(self, part: Part, text: str, logprobs: Logprobs) -> str: ...

    def end(self, part: Part) -> str: ...


class Silent:
    """Of an answer that is sent whole."""

    def begin(self, part: Part) -> str:
        return ""

    def add(self, part: Part, text: str, logprobs: Logprobs) -> str:
        return ""

    def end(self, part: Part) -> str:
        return ""


class Parts:
    """Invariant: every part but the last has ended; after `finish` the last has too."""

    def __init__(self, writer: Writer) -> None:
        self.parts: list[Part] = []
        self._writer = writer
        self._open: Part | None = None
        self._space = ""  # held back until it is known whether a text follows
        self._logprobs: Logprobs = []  # of tokens that no part has yet

    @property
    def has_calls(self) -> bool:
        return any(part.kind is Kind.CALL for part in self.parts)

    def take(self, delta: Delta) -> str:
        """What is sent for it."""
        if delta.logprobs and not self._is_of_thought(delta):
            self._logprobs += delta.logprobs
        if delta.events is None:
            text, part = delta.text, self._open
            if part is not None and part.kind is Kind.TEXT and text and not self._logprobs:  # nearly every delta
                part.pieces.append(text)
                return self._writer.add(part, text, self._logprobs)
            return self._text(text) if text else ""
        return "".join([self._event(event) for event in delta.events])

    def finish(self, *, is_cut: bool) -> str:
        """The end of the answer. An answer without a part is an empty text."""
        sent = ""
        if not self.parts:
            sent = self._begin(Kind.TEXT)
            if self._space:
                sent += self._add(self._space)
        self.parts[-1].is_cut = is_cut
        return sent + self._end()

    def _event(self, event: Event) -> str:
        match event:
            case Content(text):
                return self._text(text)
            case Reasoning(text):
                return self._reasoning(text)
            case CallBegins(_, name, call_id):
                self._settle()
                return self._begin(Kind.CALL, name, call_id)
            case CallArguments(_, text):
                self._settle()
                return self._add(text)

    def _text(self, text: str) -> str:
        part = self._open
        if part is None or part.kind is not Kind.TEXT:
            text = self._space + text
            if not text or text.isspace():
                self._space = text
                return ""
            self._space = ""
            return self._begin(Kind.TEXT) + self._add(text)
        return self._add(text)

    def _reasoning(self, text: str) -> str:
        self._settle()
        begun = "" if self._open is not None and self._open.kind is Kind.REASONING else self._begin(Kind.REASONING)
        return begun + self._add(text)

    def _is_of_thought(self, delta: Delta) -> bool:
        """Its tokens are a thought's, or of the mark that ends it."""
        part, events = self._open, delta.events
        is_thinking = part is not None and part.kind is Kind.REASONING
        return is_thinking and events is not None and not any(isinstance(event, Content) for event in events)

    def _begin(self, kind: Kind, name: str = "", call_id: str = "") -> str:
        ended = self._end()
        part = self._open = Part(kind, len(self.parts), name, call_id)
        self.parts.append(part)
        return ended + self._writer.begin(part)

    def _add(self, text: str) -> str:
        part = self._open
        assert part is not None
        part.pieces.append(text)
        logprobs = self._logprobs
        if logprobs:
            self._logprobs = []
            part.logprobs += logprobs
        return self._writer.add(part, text, logprobs)

    def _end(self) -> str:
        part = self._open
        if part is None:
            return ""
        filled = self._add("{}") if part.kind is Kind.CALL and not part.pieces and not part.is_cut else ""
        self._open = None
        return filled + self._writer.end(part)

    def _settle(self) -> None:
        """What was held back is of a thought or a call: its white space is dropped, its tokens' logprobs too."""
        self._space = ""
        self._logprobs = []
