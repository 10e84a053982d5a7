"""Those who look at the cluster's event stream: all get the same bytes, and nobody is waited for.

Invariant: of each viewer at most MAX_FRAMES frames wait here; one that has not taken them when the next comes is
dropped, with what waited.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from baton.errors import OverloadedError

MAX_FRAMES = 4
BATCH = 32  # viewers told in one go; tokens are sent to others in between


class TooManyViewersError(OverloadedError):
    http_status = 503


class Viewer:
    """Iterated over by one stream; ends when it is dropped or dismissed."""

    def __init__(self, first: bytes) -> None:
        self._frames: deque[bytes] = deque([first])
        self._news = asyncio.Event()
        self._news.set()
        self.is_over = False

    def offer(self, frame: bytes) -> bool:
        """False: it does not keep up, and is dropped."""
        if len(self._frames) >= MAX_FRAMES:
            self._frames.clear()
            self.end()
            return False
        self._frames.append(frame)
        self._news.set()
        return True

    def end(self) -> None:
        """What waits is still sent."""
        self.is_over = True
        self._news.set()

    async def frames(self) -> AsyncIterator[bytes]:
        while True:
            while self._frames:
                yield self._frames.popleft()
            if self.is_over:
                return
            self._news.clear()
            await self._news.wait()


class Viewers:
    """`max_viewers`: at once."""

    def __init__(self, max_viewers: int) -> None:
        self.max_viewers = max_viewers
        self.num_dropped = 0
        self._viewers: set[Viewer] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    def check_room(self) -> None:
        """Raises: OverloadedError (503)."""
        if len(self._viewers) >= self.max_viewers:
            raise TooManyViewersError(
                f"{self.max_viewers} viewers follow /cluster/events here, the most that this server takes; "
                "ask for /cluster now and then instead",
                retry_after_s=10.0,
            )

    def join(self, first: bytes) -> Viewer:
        """Raises: OverloadedError."""
        self.check_room()
        viewer = Viewer(first)
        self._viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)

    async def tell(self, frame: bytes) -> None:
        for place, viewer in enumerate(list(self._viewers), start=1):
            if not viewer.offer(frame):
                self.num_dropped += 1
                self._viewers.discard(viewer)
            if place % BATCH == 0:
                await asyncio.sleep(0)

    def dismiss(self, last: bytes) -> None:
        """All of them, with a last word."""
        for viewer in self._viewers:
            viewer.offer(last)
            viewer.end()
        self._viewers.clear()
