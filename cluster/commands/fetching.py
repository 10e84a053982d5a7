"""How a terminal shows a model that is fetched: a bar there, a line for each thing that begins elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from cluster.config.schema import BatonConfig


@contextmanager
def shown() -> Iterator["Lines | DownloadBar"]:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("  "), *columns, console=console, transient=True) as progress:
        yield DownloadBar(progress)


def resolve_config_shown(config: "BatonConfig") -> "BatonConfig":
    """`cluster.models.find.resolve_config` with what it does on the terminal."""
    from cluster.models.find import resolve_config

    with shown() as show:
        return resolve_config(config, show)


class Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def bytes_done(self, done: int, total: int) -> None:
        """Nothing: a log wants no percentages."""


class DownloadBar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, visible=False)

    def say(self, text: str) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.console.print(text, markup=False)

    def bytes_done(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total, visible=True)
