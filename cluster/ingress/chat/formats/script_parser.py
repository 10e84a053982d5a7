"""An AnswerParser that runs a format's script."""

from collections.abc import Callable, Sequence

from cluster.ingress.chat.events import Content, Event
from cluster.ingress.chat.formats.markers import Markers
from cluster.ingress.chat.formats.source import MalformedCallError, Source, Waiting

Script = Callable[[Source], Waiting[None]]
CallReader = Callable[[Source, str], Waiting[None]]  # reads on behind a marker; raises MalformedCallError


class ScriptParser:
    """A piece of plain content costs one search; all else runs the script as far as the text goes."""

    def __init__(self, script: Script, *, held: bool = False) -> None:
        self._source = Source(held=held)
        self._script = script(self._source)
        self._is_over = False
        self._run()

    def push(self, text: str) -> Sequence[Event]:
        plain = self._source.plain
        if plain is not None and text and plain.is_plain(text):
            return (Content(text),)
        self._source.add(text)
        return self._run()

    def finish(self) -> Sequence[Event]:
        self._source.end()
        return self._run()

    def _run(self) -> Sequence[Event]:
        if not self._is_over:
            try:
                next(self._script)
            except StopIteration:
                self._is_over = True
        return self._source.take_events()


def marked_calls(markers: Markers, read: CallReader) -> Script:
    """Content in which calls begin with markers."""

    def script(source: Source) -> Waiting[None]:
        while marker := (yield from source.content(markers)):
            yield from attempted(source, read(source, marker))

    return script


def attempted(source: Source, reading: Waiting[None]) -> Waiting[None]:
    """Reads what may be calls; what turns out to be none is content."""
    try:
        yield from reading
        source.end_attempt()
    except MalformedCallError:
        source.give_up()
