"""Signals of a command's process: what must not be cut short, and what Ray must not take.

Only the main thread may set handlers; elsewhere nothing changes.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is ignored meanwhile. For work with a time limit that would leave processes behind half way."""
    with _restored(signal.SIGINT):
        if _is_main():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Sets SIGTERM's handler again at the end.

    `ray.init` puts one in its place that prints a stack and aborts the process three seconds later.
    """
    with _restored(signal.SIGTERM):
        yield


@contextmanager
def _restored(number: signal.Signals) -> Iterator[None]:
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        if _is_main() and handler is not None:  # None: set by other than Python, which cannot set it again
            signal.signal(number, handler)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
