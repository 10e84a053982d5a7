"""Fixed texts that begin something, found in text that arrives in pieces."""

import re

SPACE = " \t\r\n"
LINE_ENDS = "\r\n"
MAX_SPACE = 64  # so that endless space is passed on, not kept and looked at again and again


class Markers:
    """A set of texts of which none begins with another, so that a match never depends on what comes after it."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self._pattern = re.compile("|".join(re.escape(text) for text in texts))
        self._firsts = frozenset(text[0] for text in texts)
        self._max_length = max(len(text) for text in texts)
        assert not any(a != b and a.startswith(b) for a in texts for b in texts)
        firsts = "".join(re.escape(first) for first in self._firsts)
        self._needs_care = re.compile(rf"[{firsts}]|[{SPACE}]\Z").search

    def is_plain(self, text: str) -> bool:
        """No marker begins in it, and it does not end in space: it is content whatever follows."""
        return self._needs_care(text) is None

    def find(self, text: str, start: int = 0) -> tuple[int, int] | None:
        """The first marker from `start` on: [begin, end)."""
        found = self._pattern.search(text, start)
        return found.span() if found else None

    def num_open(self, text: str) -> int:
        """Characters at the end of a text without markers that may become one."""
        for length in range(min(self._max_length - 1, len(text)), 0, -1):
            if text[-length] in self._firsts and any(one.startswith(text[-length:]) for one in self._texts):
                return length
        return 0


def without_space(text: str, end: int, start: int = 0, space: str = SPACE) -> int:
    """Where the space begins that ends at `end`, not before `start`; more than MAX_SPACE of it is text."""
    start = max(start, end - MAX_SPACE)
    while end > start and text[end - 1] in space:
        end -= 1
    return end
