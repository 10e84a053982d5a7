"""Reasoning between two marks at an answer's beginning, then content. Space beside the marks belongs to neither."""

import re
from collections.abc import Sequence
from enum import Enum, auto

from cluster.ingress.chat.events import Content, Event, Reasoning
from cluster.ingress.chat.formats.markers import LINE_ENDS, SPACE, Markers, without_space


class _Where(Enum):
    """In the order in which an answer goes through them; it may leave out all but the last."""

    START = auto()  # a mark may come that begins the thinking
    BEGUN = auto()  # space before the thinking
    THINKING = auto()
    ENDED = auto()  # space before the content
    CONTENT = auto()


class ThinkingParser:
    """An AnswerParser.

    Args:
        begin: Marks of which one may begin the answer; none is a prefix of another.
        ends: Marks that end the thinking, the last of them those that belong to what follows.
        num_dropped: How many of the ends belong to the thinking.
        is_opened: The thinking begins also where no mark does.
        space: Characters that are dropped beside the marks.
    """

    def __init__(
        self,
        begin: tuple[str, ...],
        ends: tuple[str, ...],
        num_dropped: int,
        *,
        is_opened: bool,
        space: str = LINE_ENDS,
    ) -> None:
        self._begin = begin
        self._ends = Markers(*ends)
        self._dropped = frozenset(ends[:num_dropped])
        self._is_opened = is_opened
        self._space = space
        self._where = _Where.START
        self._text = ""
        firsts = "".join(re.escape(end[0]) for end in ends)
        self._needs_care = re.compile(rf"[{firsts}]|[{space}]\Z").search

    @property
    def is_over(self) -> bool:
        """All further text is content, and `push` gives it back as it is."""
        return self._where is _Where.CONTENT

    def push(self, text: str) -> Sequence[Event]:
        if self._where is _Where.CONTENT:
            return (Content(text),) if text else ()
        if self._where is _Where.THINKING and text and not self._text and not self._needs_care(text):
            return (Reasoning(text),)
        self._text += text
        return self._read(is_end=False)

    def finish(self) -> Sequence[Event]:
        return self._read(is_end=True)

    def _read(self, *, is_end: bool) -> list[Event]:
        events: list[Event] = []
        if self._where is _Where.START:
            self._start(is_end=is_end)
        if self._where is _Where.BEGUN:
            self._skip_space(_Where.THINKING)
        if self._where is _Where.THINKING:
            events += self._think(is_end=is_end)
        if self._where is _Where.ENDED:
            self._skip_space(_Where.CONTENT)
        if self._where is _Where.CONTENT and self._text:
            events.append(Content(self._text))
            self._text = ""
        return events

    def _start(self, *, is_end: bool) -> None:
        text = self._text.lstrip(SPACE)
        for mark in self._begin:
            if text.startswith(mark):
                self._text, self._where = text[len(mark) :], _Where.BEGUN
                return
        if is_end or not any(mark.startswith(text) for mark in self._begin):
            self._where = _Where.BEGUN if self._is_opened else _Where.CONTENT

    def _skip_space(self, then: _Where) -> None:
        self._text = self._text.lstrip(self._space)
        if self._text:
            self._where = then

    def _think(self, *, is_end: bool) -> list[Event]:
        found = self._ends.find(self._text)
        if found is None:
            end = len(self._text)
            if not is_end:
                end = without_space(self._text, end - self._ends.num_open(self._text), space=self._space)
            return self._take(end, end)
        begin, end = found
        is_dropped = self._text[begin:end] in self._dropped
        self._where = _Where.ENDED
        return self._take(without_space(self._text, begin, space=self._space), end if is_dropped else begin)

    def _take(self, end: int, next_begin: int) -> list[Event]:
        thought, self._text = self._text[:end], self._text[next_begin:]
        return [Reasoning(thought)] if thought else []
