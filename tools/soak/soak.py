"""One soak, from `up` to `down`: known answers, load under trouble, quiet, and what is left."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.machine import processor
from tools.soak.adapter import write_adapter
from tools.soak.changes import Changes
from tools.soak.clients import Clients
from tools.soak.cluster import CommandError, SoakCluster
from tools.soak.corpus import corpus
from tools.soak.hosts import HostsCluster
from tools.soak.known import Known, take_known
from tools.soak.leftovers import left_over, look_at_blocks
from tools.soak.load import Load
from tools.soak.result import Result
from tools.soak.samples import Sampler
from tools.soak.schedule import default_gap_s, schedule
from tools.soak.scrape import blocks_in, held, sums_that_are_off
from tools.soak.troubles import Troubles
from tools.soak.viewers import Viewers
from tools.soak.watch import FeedError, Watch, is_idle, is_whole
from workers.model.registry import resolve_model

IDLE_TIMEOUT_S = 60.0  # after the last answer, for leases and late aborts
MAX_UNSTEADY = 0.02  # share of the corpus whose answers may hang by a hair in float32
logger = logging.getLogger("soak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    Attributes:
        load: Share of the rate at which six clients were answered without trouble.
        rate: Requests/s; None: by `load`.
        every_s: Mean gap between events; None: as `default_gap_s` has it.
        only: Words that a kind of event must have one of; empty: all kinds.
    """

    minutes: float
    seed: int
    num_asks: int
    load: float
    rate: float | None
    every_s: float | None
    sample_s: float
    only: tuple[str, ...]
    out: Path


class Soak:
    def __init__(self, settings: Settings, cluster: SoakCluster, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._begin_s = time.monotonic()
        self._cluster = cluster
        self._sampler = Sampler(self._cluster, self._clock)
        self._result = Result(facts={}, duration_s=settings.minutes * 60, samples=self._sampler.samples)

    async def run(self) -> Result:
        """Ends the cluster whatever happens. Raises: CommandError: it does not start."""
        self._tell(f"starting a cluster in {self._cluster.folder}")
        try:
            self._adapter = self._make_adapter()
            await self._cluster.up()
            async with Watch(self._cluster.env, self._cluster.prefix) as watch, self._clients() as clients:
                await self._soak(watch, clients)
                self._result.fleet_events = watch.events
        except FeedError as error:
            self._result.problems.append(str(error))
        finally:
            await self._end()
        return self._result

    def _clock(self) -> float:
        return time.monotonic() - self._begin_s

    def _clients(self) -> Clients:
        return Clients(self._cluster.http, self._cluster.grpc, self._clock)

    async def _soak(self, watch: Watch, clients: Clients) -> None:
        settings, result = self._settings, self._result
        await watch.wait("every worker", lambda view: is_whole(view, self._cluster.num_replicas), 120)
        known = await self._know(clients)
        rate = settings.rate or max(0.5, settings.load * known.rate)
        load = Load(
            clients,
            self._asks,
            known.answers,
            seed=settings.seed,
            rate=rate,
            told=result.outcomes.append,
        )
        changes = Changes(self._cluster, watch, knows=await self._knows(watch), adapter=self._adapter)
        troubles = Troubles(self._cluster, watch, changes, clock=self._clock, burst=load.burst)
        result.happenings = troubles.happenings
        planned = self._plan(troubles)
        result.facts = self._facts(rate, len(planned))
        self._tell(f"load: {rate:.1f} requests/s for {settings.minutes:g} min, {len(planned)} events planned")
        self._begin_s = time.monotonic()
        viewers = Viewers(self._cluster.http, seed=settings.seed, clock=self._clock)
        async with self._measuring(watch, load), _running(viewers.run()):
            await self._until_over(load, troubles, planned)
        self._take_looks(viewers)
        result.num_held_back = load.num_held_back
        await self._idle(watch)

    async def _until_over(self, load: Load, troubles: Troubles, planned: Any) -> None:
        following = asyncio.create_task(troubles.follow(planned))
        telling = asyncio.create_task(self._tell_now_and_then(load))
        await load.run(self._settings.minutes * 60)
        await following
        await load.drained()
        telling.cancel()

    async def _tell_now_and_then(self, load: Load) -> None:
        while True:
            await asyncio.sleep(20)
            counts = ", ".join(f"{count} {name}" for name, count in self._result.counts().most_common())
            last = self._result.happenings[-1].kind if self._result.happenings else "nothing yet"
            self._tell(f"{self._clock():.0f} s: {counts or 'nothing ended'}; {load.num_open} open; last event: {last}")

    async def _know(self, clients: Clients) -> Known:
        self._asks = corpus(self._settings.seed, self._settings.num_asks, self._cluster.served_name)
        self._tell(f"taking {len(self._asks)} known answers, twice")
        known = await take_known(clients, self._asks)
        self._result.unsteady = known.unsteady
        if len(known.unsteady) > MAX_UNSTEADY * len(self._asks):
            self._result.problems.append(f"{len(known.unsteady)} answers differed on a cluster where nothing happened")
        return known

    async def _knows(self, watch: Watch) -> dict[str, bool]:
        can_flip = await watch.do("knows", "set_role")
        rolls = can_roll()
        if not can_flip:
            self._result.cannot.append("role flips: no `baton role` here")
        if not rolls:
            self._result.cannot.append("rolling changes: this version wants `baton down` before an engine key changes")
        if not isinstance(self._cluster, HostsCluster):
            self._result.cannot.append(
                "a cut link between hosts: --hosts does that, with root; here workers fall silent"
            )
        return {"set_role": can_flip, "rolling": rolls}

    def _plan(self, troubles: Troubles) -> Any:
        settings = self._settings
        kinds = [kind for kind in troubles.kinds() if not settings.only or any(word in kind for word in settings.only)]
        every_s = settings.every_s or default_gap_s(settings.minutes * 60, len(kinds))
        return schedule(settings.seed, settings.minutes * 60, every_s, kinds)

    @contextlib.asynccontextmanager
    async def _measuring(self, watch: Watch, load: Load) -> AsyncIterator[None]:
        async def measure() -> None:
            while True:
                await asyncio.to_thread(self._sampler.take, watch.view, load.num_open)
                await asyncio.sleep(self._settings.sample_s)

        async with _running(measure()):
            yield

    def _take_looks(self, viewers: Viewers) -> None:
        result = self._result
        result.looks = dict(viewers.counts) | {"slowest scrape, ms": round(viewers.slowest_s * 1000)}
        for at_s, failure in viewers.failures:
            near = [one for one in result.happenings if one.begin_s - 16 <= at_s <= (one.over_s or at_s) + 2]
            if not any(one.kind.split()[-1] in ("HAProxy", "manager", "replica") for one in near):
                result.problems.append(f"a look at {at_s:.1f} s failed: {failure}")

    async def _idle(self, watch: Watch) -> None:
        self._tell("load is over, waiting until nothing runs")
        try:
            await watch.wait("idle, every block free", is_idle, IDLE_TIMEOUT_S)
        except FeedError as error:
            self._result.problems.append(str(error))
        await asyncio.to_thread(self._sampler.take, watch.view, 0)
        self._result.problems += look_at_blocks(watch.view)
        async with aiohttp.ClientSession(self._cluster.http) as http, http.get("/metrics") as reply:
            blocks = blocks_in(await reply.text())
        self._result.problems += [*sums_that_are_off(blocks, watch.view), *held(blocks)]

    async def _end(self) -> None:
        try:
            segments = self._sampler.samples.segments
            await self._cluster.down()
            self._result.problems += left_over(self._cluster, segments)
        except (CommandError, OSError) as error:
            self._result.problems.append(f"baton down: {error}")
        self._cluster.remove()

    def _make_adapter(self) -> Path | None:
        """Where the model is like Llama; the cluster is then told that it may be loaded."""
        try:
            config = json.loads((resolve_model(str(self._cluster.config["model"])) / "config.json").read_text())
            folder = write_adapter(self._cluster.folder / "adapters" / "one", config, self._settings.seed)
        except (OSError, KeyError, ValueError) as error:
            self._result.cannot.append(f"an adapter that comes and goes: {error}")
            return None
        self._cluster.config["adapters_dynamic"] = {"folders": [str(folder.parent)]}
        return folder

    def _facts(self, rate: float, num_planned: int) -> dict[str, Any]:
        settings = self._settings
        return {
            "processor": processor(),
            "minutes": settings.minutes,
            "seed": settings.seed,
            "requests/s": round(rate, 2),
            "known answers": settings.num_asks,
            "events planned": num_planned,
            "config": json.dumps(self._cluster.config),
        }


def can_roll() -> bool:
    """Whether this version follows a changed engine while it serves."""
    from cluster.fleet import plan

    return not hasattr(plan, "_may_change")


@contextlib.asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    """While the block runs; what it raises ends the block too late, but is not lost."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
