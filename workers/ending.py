"""The end of a rank's process of its own accord: whoever waits for it is told why, then it ends, whatever runs."""

import asyncio
import contextlib
import os
import time
from typing import NoReturn

from baton.errors import BatonError, UnavailableError

TOLD_S = 0.1  # for the reason to leave the process; nothing is computed meanwhile: the thread that ends it waits


class Ending:
    """`end` may be called from any thread, and by several; `wait` is the event loop's."""

    def __init__(self) -> None:
        self._why: asyncio.Future[None] | None = None  # of whoever waits

    async def wait(self) -> None:
        """Never returns. Raises: UnavailableError: why this process is about to end; where it is killed, nothing."""
        if self._why is None:
            self._why = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._why)

    def end(self, error: BaseException) -> NoReturn:
        """A fault of the event loop's own thread ends the process untold."""
        why = self._why
        if why is not None and not _runs_here(why.get_loop()):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                why.get_loop().call_soon_threadsafe(_tell, why, error)
                time.sleep(TOLD_S)
        os._exit(1)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _tell(why: asyncio.Future[None], error: BaseException) -> None:
    if not why.done():
        text = error.message if isinstance(error, BatonError) else f"{type(error).__name__}: {error}"
        why.set_exception(UnavailableError(text))
