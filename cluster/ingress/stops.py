"""Finds stop strings in text that arrives in pieces.

Text that may be the beginning of a stop string is held back until it is known not to be; nothing behind a stop string
is ever returned.
"""

from collections.abc import Sequence


class StopFinder:
    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`include`: the stop string itself is part of the answer."""
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self._max_held = max((len(stop) for stop in stops), default=0) - 1

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns what is certain now, and the stop string that ended the answer if one did."""
        if not self._stops:
            return text, None
        text = self._held + text
        found = self._first(text)
        if found is not None:
            start, stop = found
            self._held = ""
            return text[: start + len(stop) if self._include else start], stop
        num_held = self._num_to_hold(text)
        split = len(text) - num_held
        self._held = text[split:]
        return text[:split], None

    def release(self) -> str:
        """What was held back, once the answer has ended without it becoming a stop string."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        """The match that is complete first; of those that end together, the one that begins first."""
        matches = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self._stops if stop in text]
        if not matches:
            return None
        _, start, stop = min(matches)
        return start, stop

    def _num_to_hold(self, text: str) -> int:
        for length in range(min(self._max_held, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
