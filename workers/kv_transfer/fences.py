"""Points in what a device was given to do, and the times between them, for which nobody waits."""

import time
from collections import deque
from typing import Any, Protocol


class Fence(Protocol):
    """A point in what the device was given to do."""

    def is_past(self) -> bool: ...

    def wait(self) -> None:
        """Until the device is past it."""
        ...

    def seconds_to(self, later: Any) -> float:
        """To another of the same device; it is past both."""
        ...


class Moment:
    """Implements `Fence` where things are done when they are told: it is past at once."""

    __slots__ = ("at_s",)

    def __init__(self) -> None:
        self.at_s = time.monotonic()

    def is_past(self) -> bool:
        return True

    def wait(self) -> None:
        """It is past."""

    def seconds_to(self, later: "Moment") -> float:
        return later.at_s - self.at_s


class Gaps:
    """Times from one fence to another, told once the device is past both. Of one thread."""

    def __init__(self) -> None:
        self._open: deque[tuple[Fence, Fence]] = deque()

    def add(self, begin: Fence, end: Fence) -> None:
        self._open.append((begin, end))

    def settled(self) -> list[float]:
        """Seconds of those that the device is past, each once; none waits for one that it is not."""
        found = []
        while self._open and self._open[0][0].is_past() and self._open[0][1].is_past():
            begin, end = self._open.popleft()
            found.append(max(0.0, begin.seconds_to(end)))
        return found
