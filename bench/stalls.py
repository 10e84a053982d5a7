"""When this machine itself stood still, as a virtual one does whose host gives it no time.

What a server did not do meanwhile is not its fault; a benchmark that looks at its longest pauses says both.
"""

import threading
import time
from types import TracebackType
from typing import Self

WAKE_S = 0.02
LATE_S = 0.1  # more than an even share of two busy cores makes a sleeper wait


class Stalls:
    """Watched from a thread, while it is open: one that wakes late is told so.

    Attributes:
        spans: Begin and end of each, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def within(self, begin_s: float, end_s: float) -> float:
        """How many seconds of these it stood still."""
        return sum(max(min(end, end_s) - max(begin, begin_s), 0.0) for begin, end in self.spans)

    def _watch(self) -> None:
        slept_s = time.monotonic()
        while not self._ended.wait(WAKE_S):
            now_s = time.monotonic()
            if now_s - slept_s > LATE_S:
                self.spans.append((slept_s, now_s))
            slept_s = now_s
