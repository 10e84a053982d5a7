"""A log handler that never makes its caller wait: lines go through a bounded queue to a thread that writes them.

Invariant: `dropped` is called for every line that did not fit.
"""

import logging
import logging.handlers
import queue
from collections.abc import Callable
from typing import Any, TextIO

MAX_WAITING = 4096  # lines


class QueuedHandler(logging.handlers.QueueHandler):
    """Lines are formatted where they are logged: there are the ids of the request that they are about."""

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING) -> None:
        super().__init__(queue.Queue(max_waiting))
        self.dropped: Callable[[], Any] = _nothing  # called for each
        writer = logging.StreamHandler(stream)
        writer.setFormatter(logging.Formatter("%(message)s"))
        self._listener = logging.handlers.QueueListener(self.queue, writer)
        self._listener.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped()

    def close(self) -> None:
        """Writes what waits, for a moment. Idempotent."""
        listener, self._listener = self._listener, None  # type: ignore[assignment]
        if listener is not None:
            _stop(listener)
        super().close()


def _stop(listener: logging.handlers.QueueListener) -> None:
    """Not by `listener.stop`, which waits for as long as the disk takes, or for room in a queue that is full."""
    try:
        listener.enqueue_sentinel()
    except queue.Full:
        return
    thread = listener._thread
    if thread is not None:
        thread.join(1.0)


def _nothing() -> None:
    """Nobody counts."""
