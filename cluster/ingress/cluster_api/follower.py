"""What the controller of one fleet said last. It is asked as often as the page is drawn, and never waited for."""

import asyncio
import time
from collections import deque

from baton.errors import BatonError
from cluster.contracts.events import MAX_EVENTS, Event
from cluster.ingress.cluster_api.fleet_news import AskFleet, FleetNews


class FleetFollower:
    """`ask`: None: this fleet has no controller.

    Attributes:
        news: None: it has not answered yet.
        error: Why the last answer did not come; empty: it did.
    """

    def __init__(self, ask: AskFleet | None) -> None:
        self.news: FleetNews | None = None
        self.error = ""
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._ask = ask
        self._heard_s: float | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float | None:
        """Since it last answered; None: never."""
        return None if self._heard_s is None else time.monotonic() - self._heard_s

    def refresh(self) -> None:
        """Asks, unless it is being asked."""
        if self._ask is not None and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._hear(self._ask))

    async def first(self, timeout_s: float) -> None:
        """Waits for the first answer, for as long as this at most."""
        if self._asking is not None and self.news is None:
            await asyncio.wait({self._asking}, timeout=timeout_s)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _hear(self, ask: AskFleet) -> None:
        """The last known event is asked for again: a controller that was started anew does not know it."""
        last = self.events[-1] if self.events else None
        try:
            news = await ask(last.number - 1 if last is not None else 0)
            if last is not None and (not news.events or news.events[0] != last):
                self.events.clear()
                news = await ask(0)
        except BatonError as error:
            self.error = error.message
            return
        self.news, self.error, self._heard_s = news, "", time.monotonic()
        known = self.events[-1].number if self.events else 0
        self.events.extend(event for event in news.events if event.number > known)
