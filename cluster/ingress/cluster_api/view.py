"""Looks at the cluster for all who watch it from this replica: once for everybody, and not at all while nobody does.

What workers report is at hand; the controller and other replicas are asked once a second at most, however many look.
Loads are measured every `request_window.STEP_S` in any case, so that the page of one who has just come has a past.
Pictures and measures are made on a thread: among 1,000 workers they take longer than tokens should wait.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from baton.errors import UnavailableError
from cluster.contracts.slo import SLO
from cluster.ingress.cluster_api.change import Picture, change
from cluster.ingress.cluster_api.fleet_news import AskFleet
from cluster.ingress.cluster_api.follower import FleetFollower
from cluster.ingress.cluster_api.load import LoadMeter
from cluster.ingress.cluster_api.picture import FleetLook, ReplicaShare, picture, requests
from cluster.ingress.cluster_api.request_window import STEP_S, RequestWindow, Slice, joined, number_of
from cluster.ingress.cluster_api.trend import Trend
from cluster.ingress.cluster_api.viewers import Viewer, Viewers
from cluster.ingress.contract import Dispatch
from cluster.router.handovers import Handed, Pair
from cluster.router.handovers import joined as joined_pairs

GatherShares = Callable[[], Awaitable[Sequence[ReplicaShare]]]  # of the other replicas
INTERVAL_S = 1.0
WORKERS_PER_S = 500  # with more, looks are rarer
FIRST_TIMEOUT_S = 1.0  # of the controller's first answer
BEAT = b": beat\n\n"  # nothing has changed, and the stream is alive


@dataclass(slots=True, kw_only=True)
class Fleet:
    """One model's workers, as this replica knows them."""

    model: str
    dispatcher: Dispatch
    ask: AskFleet | None = None
    handed: Mapping[Pair, Handed] = field(default_factory=dict)  # in the last slice
    follower: FleetFollower = field(init=False)

    def __post_init__(self) -> None:
        self.follower = FleetFollower(self.ask)


class ClusterView:
    def __init__(
        self,
        fleets: Callable[[], Sequence[Fleet]],
        slo: SLO,
        *,
        gather: GatherShares | None = None,
        max_viewers: int = 1024,
    ) -> None:
        self.window = RequestWindow(slo)
        self.viewers = Viewers(max_viewers)
        self._fleets = fleets
        self._slo = slo
        self._gather = gather
        self._is_leaving = False
        self._meter = LoadMeter()
        self._trend = Trend()
        self._number = 0
        self._picture: Picture | None = None
        self._first: tuple[int, bytes] | None = None  # number of a picture, and the frame that shows it whole
        self._made_s = 0.0
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Idempotent; on the event loop."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._measure_forever()), asyncio.create_task(self._show_forever())]

    def leave(self) -> None:
        """This replica is to go: those who watch are sent to another one, so that it need not wait for them."""
        self._is_leaving = True
        self.viewers.dismiss(frame("bye", {"reason": "this server is about to be replaced; ask again"}))

    async def close(self) -> None:
        self.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for fleet in self._fleets():
            await fleet.follower.close()

    @property
    def interval_s(self) -> float:
        """Between two looks."""
        num_workers = len(self._picture["workers"]) if self._picture is not None else 0
        return INTERVAL_S * max(1.0, num_workers / WORKERS_PER_S)

    async def picture(self) -> Picture:
        """At most about `interval_s` old; not to be changed."""
        self.start()
        async with self._turn:
            return await self._newest()

    async def join(self) -> Viewer:
        """One more, who is shown a picture and then each change of it.

        Raises: TooManyViewersError, UnavailableError.
        """
        self.start()
        if self._is_leaving:
            raise UnavailableError("this ingress replica is about to be replaced; ask again")
        self.viewers.check_room()
        async with self._turn:
            found = await self._newest()
            if self._first is None or self._first[0] != found["number"]:
                self._first = (found["number"], await asyncio.to_thread(frame, "picture", found))
            return self.viewers.join(self._first[1])

    async def _newest(self) -> Picture:
        """The one that viewers have, while there are any: what they are told next is a change of it."""
        is_old = time.monotonic() - self._made_s >= self.interval_s
        if self._picture is None or (is_old and not len(self.viewers)):
            await self._look()
        assert self._picture is not None
        return self._picture

    def share(self) -> ReplicaShare:
        """Of this replica alone."""
        fleets = self._fleets()
        counters = [fleet.dispatcher.counters for fleet in fleets]
        return ReplicaShare(
            num_queued=sum(one.num_queued for one in counters),
            num_running=sum(one.num_running for one in counters),
            num_shed=sum(one.num_shed for one in counters),
            num_retries=sum(one.num_retries for one in counters),
            slices=self.window.slices(),
            handed={fleet.model: fleet.handed for fleet in fleets},
        )

    async def _look(self) -> None:
        fleets = self._fleets()
        for fleet in fleets:
            fleet.follower.refresh()
        await asyncio.gather(*(fleet.follower.first(FIRST_TIMEOUT_S) for fleet in fleets))
        shares = [self.share(), *(await self._gather() if self._gather is not None else ())]
        looks = [self._fleet_look(fleet, shares) for fleet in fleets]
        slices = joined([share.slices for share in shares])
        self._number += 1
        self._picture = await asyncio.to_thread(self._drawn, self._number, looks, shares, slices)
        self._made_s = time.monotonic()

    def _fleet_look(self, fleet: Fleet, shares: Sequence[ReplicaShare]) -> FleetLook:
        follower = fleet.follower
        return FleetLook(
            model=fleet.model,
            views=fleet.dispatcher.states(),
            news=follower.news,
            age_s=follower.age_s,
            error=follower.error,
            events=tuple(follower.events),
            handed=joined_pairs(share.handed.get(fleet.model, {}) for share in shares),
        )

    def _drawn(
        self,
        number: int,
        looks: Sequence[FleetLook],
        shares: Sequence[ReplicaShare],
        slices: Mapping[int, Slice],
    ) -> Picture:
        """On a thread."""
        now_s = time.time()
        last = number_of(now_s) - 1
        drawn = picture(number, now_s, looks, self._slo)
        return drawn | {
            "interval_s": self.interval_s,
            "requests": requests(shares, slices, last),
            "trend": self._trend.points(slices, last),
        }

    async def _measure_forever(self) -> None:
        await self._measure()
        while True:
            await asyncio.sleep(STEP_S - time.time() % STEP_S)
            await self._measure()

    async def _measure(self) -> None:
        fleets = self._fleets()
        for fleet in fleets:
            fleet.handed = fleet.dispatcher.handovers.take()
        views = [view for fleet in fleets for view in fleet.dispatcher.states()]
        number = number_of(time.time() + STEP_S / 2) - 1
        self._trend.add(number, await asyncio.to_thread(self._meter.measure, views, time.monotonic()))

    async def _show_forever(self) -> None:
        while True:
            await asyncio.sleep(self.interval_s)
            if len(self.viewers):
                await self._show()

    async def _show(self) -> None:
        async with self._turn:
            before = self._picture
            await self._look()
            assert self._picture is not None
            told = await asyncio.to_thread(_change_frame, before, self._picture)
            await self.viewers.tell(told)


def frame(kind: str, body: Picture) -> bytes:
    """An event, as EventSource reads it."""
    return f"event: {kind}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()


def _change_frame(before: Picture | None, now: Picture) -> bytes:
    if before is None:
        return frame("picture", now)
    found = change(before, now)
    return frame("change", found) if found else BEAT
