"""One process at a time, by a lock on a file, which ends with its process however that ends."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from baton.errors import BatonError

POLL_S = 0.1


@contextmanager
def locked(
    path: Path, wait_s: float, too_long: BatonError, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """
    Args:
        on_wait: Called once, where another process holds it.
    Raises:
        too_long: It was held for all of `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with path.open("w") as file:
        if not _try_lock(file):
            if on_wait is not None:
                on_wait()
            while not _try_lock(file):
                if time.monotonic() >= deadline:
                    raise too_long
                time.sleep(POLL_S)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
