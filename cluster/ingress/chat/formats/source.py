"""Text that arrives in pieces, and the events made of it.

A format's script is a generator that reads from a source and yields wherever it needs more text. What a script does
depends on the text alone, so events joined do not depend on how it was cut. While a call is attempted, what is read is
kept: a call that turns out to be none is content again, exactly as it was written.
"""

from collections.abc import Callable, Generator
from typing import TypeVar

from cluster.ingress.chat.events import CallArguments, CallBegins, Content, Event, Reasoning
from cluster.ingress.chat.formats.markers import SPACE, Markers, without_space

T = TypeVar("T")
Waiting = Generator[None, None, T]  # gives back a T; yields for more text


class MalformedCallError(Exception):
    """What was read is no call; raised by scripts, caught where the attempt began."""


class Source:
    """
    Args:
        held: Events of a call wait until it is whole, so that a broken one leaves nothing but content. Otherwise they
            come at once, and a call that breaks in its arguments ends there: the text from there on is content.
    """

    def __init__(self, *, held: bool = False) -> None:
        self._held = held
        self._events: list[Event] = []
        self._text = ""
        self._at = 0  # [0, at) of the text is read
        self._is_ended = False
        self._attempt: list[str] | None = None  # what was read of the call that is attempted
        self._call_events: list[Event] = []
        self._num_calls = 0
        self._has_begun = False  # a call of this attempt
        self._has_ended = False
        self._is_after_call = False
        self.plain: Markers | None = None  # the script waits for one of these, and all text so far is passed on

    def add(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        self._is_ended = True

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # What scripts read with.

    def more(self) -> Waiting[bool]:
        """Waits for text behind what is there; False at the end."""
        size = len(self._text) - self._at
        while not self._is_ended and len(self._text) - self._at == size:
            yield
        return len(self._text) - self._at > size

    def unread(self) -> str:
        return self._text[self._at :]

    def skip(self, num: int) -> str:
        """Reads so many characters, which are there."""
        text = self._text[self._at : self._at + num]
        self._at += num
        if self._attempt is not None:
            self._attempt.append(text)
        return text

    def peek(self) -> Waiting[str]:
        """The next character, unread; "" at the end."""
        if self._at == len(self._text):
            yield from self.more()
        return self._text[self._at : self._at + 1]

    def literal(self, text: str) -> Waiting[bool]:
        """Reads `text` if it comes next; nothing else."""
        while not self._text.startswith(text, self._at):
            if not text.startswith(self._text[self._at :]) or not (yield from self.more()):
                return False
        self.skip(len(text))
        return True

    def closing(self, text: str) -> Waiting[None]:
        """Reads `text` if it comes next, or as much of it as there is where the answer ends."""
        if not (yield from self.literal(text)) and self._is_ended and text.startswith(self.unread()):
            self.skip(len(self.unread()))

    def expect(self, text: str) -> Waiting[None]:
        if not (yield from self.literal(text)):
            raise MalformedCallError

    def space(self) -> Waiting[None]:
        yield from self.run(SPACE.__contains__)

    def run(self, belongs: Callable[[str], bool]) -> Waiting[str]:
        """Reads characters as long as they belong."""
        parts: list[str] = []
        while True:
            end = self._at
            while end < len(self._text) and belongs(self._text[end]):
                end += 1
            is_over = end < len(self._text)
            parts.append(self.skip(end - self._at))
            if is_over or not (yield from self.more()):
                return "".join(parts)

    def until(self, markers: Markers, pass_on: Callable[[str], None]) -> Waiting[str]:
        """Reads up to a marker and past it; returns the marker, "" where the text ends without one."""
        while True:
            found = markers.find(self._text, self._at)
            if found is not None:
                pass_on(self.skip(found[0] - self._at))
                return self.skip(found[1] - found[0])
            rest = self.unread()
            pass_on(self.skip(len(rest) - (0 if self._is_ended else markers.num_open(rest))))
            if self._is_ended:
                return ""
            yield

    def content(self, markers: Markers) -> Waiting[str]:
        """Passes content on up to a marker, with which an attempt begins; "" at the end. Space around calls is none."""
        if self._is_after_call:
            yield from self.space()
            self._is_after_call = False
        while True:
            found = markers.find(self._text, self._at)
            if found is not None:
                self._pass_content(without_space(self._text, found[0], self._at))
                self.begin_attempt()
                self.skip(found[0] - self._at)
                return self.skip(found[1] - self._at)
            end = len(self._text)
            if self._is_ended:
                self._pass_content(end)
                return ""
            self._pass_content(without_space(self._text, end - markers.num_open(self.unread()), self._at))
            self.plain = markers if self._at == end else None
            yield
            self.plain = None

    def _pass_content(self, end: int) -> None:
        if end > self._at:
            self._events.append(Content(self._text[self._at : end]))
            self._at = end

    # What scripts write with.

    def begin_attempt(self) -> None:
        """What is read from here on may be a call."""
        self._attempt, self._has_ended = [], False

    def put_back(self, marker: str) -> None:
        """Right after `content` or `until` gave a marker: it is to be read again."""
        self._at -= len(marker)
        if self._attempt is not None:
            self._attempt.pop()

    def begin_call(self, name: str, call_id: str = "") -> None:
        self._add(CallBegins(self._num_calls, name, call_id))
        self._num_calls += 1
        self._has_begun = True

    def add_arguments(self, text: str) -> None:
        if text:
            self._add(CallArguments(self._num_calls - 1, text))

    def add_reasoning(self, text: str) -> None:
        if text:
            self._events.append(Reasoning(text))

    def add_content(self, text: str) -> None:
        if text:
            self._events.append(Content(text))

    def _add(self, event: Event) -> None:
        (self._call_events if self._held else self._events).append(event)

    def end_call(self) -> None:
        """The call is whole. Another may follow at once, as the rest of the same attempt."""
        self._events += self._call_events
        self._call_events.clear()
        self._attempt, self._has_ended = [], True
        self._has_begun = False
        self._is_after_call = True

    def end_attempt(self) -> None:
        """What was read since the last call's end belongs to the format; where no call was made, it is none."""
        if self._has_ended:
            self._attempt = None
        else:
            self.give_up()

    def give_back(self) -> None:
        """What was read since the attempt began is to be read again, as if there had been none."""
        assert self._attempt is not None
        self._text, self._at = "".join(self._attempt) + self.unread(), 0
        self._attempt = None

    def drop_attempt(self) -> None:
        """What was read belongs to the format, and is no call."""
        self._attempt = None

    def give_up(self) -> None:
        """What was read is no call. One that has begun towards the reader ends here."""
        has_left = self._has_begun and not self._held
        if self._has_begun and self._held:
            self._num_calls -= 1
        if not has_left and self._attempt is not None:
            self.add_content("".join(self._attempt))
        self._is_after_call = False
        self._call_events.clear()
        self._attempt, self._has_begun = None, False
