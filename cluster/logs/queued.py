"""A log handler that never makes its caller wait: lines go through a bounded queue to a thread that writes them.

Invariant: `dropped` is called for every line that did not fit, or that could not be written.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TextIO

MAX_WAITING = 4096  # lines
CLOSE_S = 1.0


class QueuedHandler(logging.Handler):
    """Lines are formatted where they are logged: there are the ids of the request that they are about."""

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING) -> None:
        super().__init__()
        self.dropped: Callable[[], Any] = _nothing  # called for each, from any thread
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(max_waiting)
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            self.dropped()
        except Exception:  # as every handler: a line that cannot be formatted is no fault of what runs
            self.handleError(record)

    def close(self) -> None:
        """Writes what waits, for a moment. Idempotent."""
        if self._writer.is_alive():
            try:
                self._waiting.put(None, timeout=CLOSE_S)
                self._writer.join(CLOSE_S)
            except queue.Full:
                pass  # the disk has not moved: what waits is lost with the process
        super().close()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            try:
                self._stream.write(f"{line}\n")
                if self._waiting.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # no room on the disk, or the stream is closed
                self.dropped()


def _nothing() -> None:
    """Nobody counts."""
