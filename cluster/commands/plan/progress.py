"""What a search says while it is under way: its part, how many trials have ended, and how long it has gone on."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

SAY_EVERY_S = 10.0  # off a terminal


class Trials:
    """Counts what a search tries.

    Args:
        show: Takes a line; the last one is what is so.
        every_s: Between lines of one part of the search.
        now_s: A clock.
    """

    def __init__(self, show: Callable[[str], None], *, every_s: float, now_s: Callable[[], float]) -> None:
        self._show = show
        self._every_s = every_s
        self._now_s = now_s
        self._began_s = self._said_s = now_s()
        self._part = "looking"
        self._num_ended = 0

    def note(self, part: str) -> None:
        """A part of the search begins."""
        self._part, self._num_ended, self._said_s = part, 0, self._now_s()
        self._show(part)

    def counted(self, run: Any) -> Any:
        """`run`, a `map`, that counts what ends."""

        def mapped(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            for result in run(function, items):
                self._num_ended += 1
                self._say()
                yield result

        return mapped

    def _say(self) -> None:
        now_s = self._now_s()
        if now_s - self._said_s >= self._every_s:
            self._said_s = now_s
            self._show(f"{self._part}; {self._num_ended} tried, {now_s - self._began_s:.0f} s so far")


@contextmanager
def shown_trials(console: Console) -> Iterator[Trials]:
    """On a terminal one line that moves, with the time; elsewhere a line per part, and one now and then."""
    if not console.is_terminal:
        yield Trials(console.print, every_s=SAY_EVERY_S, now_s=time.monotonic)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("looking", total=None)
        yield Trials(lambda text: bar.update(task, description=text), every_s=0.0, now_s=time.monotonic)
