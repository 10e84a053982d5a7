"""How far a rank's start is, and what its memory went to: for who waits, and for an error that says what to lower.

`watched` is for whoever starts a rank; what loads and allocates tells `current`, in whichever depth it is.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

WEIGHTS, KV = "weights", "KV blocks and states"


class Loaded(NamedTuple):
    """Bytes of weights in their places, of so many; `total` is 0 before that is known."""

    done: int
    total: int


class StartReport:
    """May be told and asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = self._total = 0
        self.parts: dict[str, int] = {}  # bytes, by what they are for; in the order in which they were asked for

    def begin(self, total: int) -> None:
        """Weights of so many bytes are to be loaded."""
        with self._lock:
            self._done, self._total = 0, total

    def add(self, num_bytes: int) -> None:
        """So many more are in place."""
        with self._lock:
            self._done += num_bytes

    def loaded(self) -> Loaded:
        with self._lock:
            return Loaded(self._done, self._total)

    def note(self, part: str, num_bytes: int) -> None:
        """What is asked for, or was found to be taken."""
        self.parts[part] = num_bytes


_watched: ContextVar[StartReport | None] = ContextVar("start_report", default=None)


def current() -> StartReport:
    """Of the rank that is being started here; one that nobody looks at where none is."""
    return _watched.get() or StartReport()


@contextmanager
def watched(report: StartReport) -> Iterator[None]:
    """What is started within, and in threads that are begun within by `asyncio.to_thread`, tells `report`."""
    token = _watched.set(report)
    try:
        yield
    finally:
        _watched.reset(token)
