"""Files that may be replaced under a running server: a cheap look whether they were.

By what the path leads to, so that a link that is turned elsewhere is seen too: so Kubernetes replaces a mounted Secret.
"""

from collections.abc import Sequence
from pathlib import Path

LOOK_S = 1.0  # between looks

Signature = tuple[tuple[int, int, int] | None, ...]


class Watched:
    """Invariant: `changed` is true once for each change, whether or not the caller could read what is there now."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(path for path in paths if path)
        self._seen = self._look()

    def changed(self) -> bool:
        """Since the last call, or since it was made."""
        now = self._look()
        is_new, self._seen = now != self._seen, now
        return is_new

    def _look(self) -> Signature:
        return tuple(_signature(path) for path in self._paths)


def _signature(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
