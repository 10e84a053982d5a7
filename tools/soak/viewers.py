"""Those who look: scrapes, and viewers of the page's data who come, read for a while and leave."""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random

import aiohttp

SCRAPE_EVERY_S = 2.0
VIEWERS_EVERY_S = 3.0
STAY_S = 6.0  # a viewer of the stream, in the mean
SCRAPE_TIMEOUT_S = 15.0
CLUSTER, EVENTS = "/cluster", "/cluster/events"


class Viewers:
    """`counts`: what came of each look; `slowest_s` of scrapes. `explained(from_s, to_s)`: whether none can be had."""

    def __init__(self, url: str, *, seed: int, clock: Callable[[], float]) -> None:
        self._url = url
        self._rng = Random(f"viewers {seed}")
        self._clock = clock
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []
        self.slowest_s = 0.0
        self.has_page = False

    async def run(self) -> None:
        """Until it is cancelled."""
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(self._url, connector=connector) as http, asyncio.TaskGroup() as group:
            async with http.get(CLUSTER) as reply:
                self.has_page = reply.status == 200
            group.create_task(self._scrape(http))
            if self.has_page:
                group.create_task(self._come_and_go(http, group))

    async def _scrape(self, http: aiohttp.ClientSession) -> None:
        while True:
            await self._look(http, "/metrics", "baton_requests_total")
            if self.has_page:
                await self._look(http, CLUSTER, "{")
            await asyncio.sleep(SCRAPE_EVERY_S)

    async def _look(self, http: aiohttp.ClientSession, path: str, has: str) -> None:
        begin_s = self._clock()
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_S), http.get(path) as reply:
                text = await reply.text()
                if reply.status != 200 or has not in text:
                    raise aiohttp.ClientError(f"{reply.status} {text[:120]!r}")
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            self.failures.append((begin_s, f"GET {path}: {type(error).__name__} {error}"))
        else:
            self.counts[path] += 1
            self.slowest_s = max(self.slowest_s, self._clock() - begin_s)

    async def _come_and_go(self, http: aiohttp.ClientSession, group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(self._watch(http))
            await asyncio.sleep(self._rng.expovariate(1 / VIEWERS_EVERY_S))

    async def _watch(self, http: aiohttp.ClientSession) -> None:
        """Leaves amid whatever comes; some never read a byte."""
        reads = self._rng.random() < 0.7
        try:
            async with asyncio.timeout(self._rng.expovariate(1 / STAY_S)), http.get(EVENTS) as reply:
                while reads and await reply.content.readline():
                    continue
                await asyncio.sleep(STAY_S)
        except TimeoutError:
            self.counts[EVENTS] += 1
        except (aiohttp.ClientError, ConnectionError):
            self.counts[f"{EVENTS} cut"] += 1
