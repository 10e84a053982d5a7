"""Does to the cluster what is planned, one at a time, and waits until it is whole again.

Whom it meets is asked of the controller's status and of the cluster's own processes; nothing else is touched.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

import baton
from baton.errors import BatonError
from tools.soak.changes import Changes
from tools.soak.cluster import CommandError, SoakCluster, pool_of
from tools.soak.happening import Happening
from tools.soak.schedule import Kind, Planned
from tools.soak.watch import FeedError, View, Watch, is_whole, pids_of, workers_of

RECOVERY_S = 120.0  # a busy machine of two cores starts a worker in 10 to 30 s
SHORT_PAUSE_S = 1.0  # below the 2 s of silence after which requests leave a worker
LONG_PAUSE_S = 8.0  # beyond the 5 s after which the controller replaces it
NUM_ANSWERS = 5
FRONT_PAUSE_S = 2.0  # of a process that stands before the workers

KILLS: Mapping[Kind, tuple[str, ...]] = {  # kinds of processes, of each one
    Kind.KILL_PREFILL: ("prefill",),
    Kind.KILL_DECODE: ("decode",),
    Kind.KILL_DRAFT: ("draft",),
    Kind.KILL_TWO: ("prefill", "decode"),
    Kind.KILL_REPLICA: ("ingress replica",),
    Kind.KILL_HAPROXY: ("HAProxy",),
    Kind.KILL_PROXY_MANAGER: ("HAProxy manager",),
    Kind.KILL_PROXY: ("proxy",),
    Kind.KILL_COMPILER: ("grammar compiler",),
    Kind.KILL_CONTROLLER: ("controller",),
    Kind.KILL_SERVE_CONTROLLER: ("Serve controller",),
}
PAUSES: Mapping[Kind, tuple[str, float]] = {
    Kind.PAUSE_PREFILL: ("prefill", SHORT_PAUSE_S),
    Kind.PAUSE_DECODE: ("decode", SHORT_PAUSE_S),
    Kind.PAUSE_DRAFT: ("draft", SHORT_PAUSE_S),
    Kind.SILENCE_PREFILL: ("prefill", LONG_PAUSE_S),
    Kind.SILENCE_DECODE: ("decode", LONG_PAUSE_S),
    Kind.PAUSE_REPLICA: ("ingress replica", FRONT_PAUSE_S),
    Kind.PAUSE_HAPROXY: ("HAProxy", FRONT_PAUSE_S),
    Kind.PAUSE_CONTROLLER: ("controller", FRONT_PAUSE_S),
}


class Troubles:
    def __init__(
        self,
        cluster: SoakCluster,
        watch: Watch,
        changes: Changes,
        *,
        clock: Callable[[], float],
        burst: Callable[[], None],
    ) -> None:
        """
        Args:
            burst: Sends many long prompts at once.
        """
        self._cluster = cluster
        self._watch = watch
        self._clock = clock
        self._changes = changes
        self._burst = burst
        self.happenings: list[Happening] = []
        self._killed: frozenset[int] = frozenset()  # by the last event

    def kinds(self) -> list[Kind]:
        """What can be done to this cluster."""
        has, found = self._cluster.has, [Kind.KILL_CONTROLLER, Kind.KILL_SERVE_CONTROLLER, Kind.PAUSE_CONTROLLER]
        found += [Kind.KILL_COMPILER, Kind.BURST]
        if self._cluster.has_haproxy:
            found += [Kind.KILL_HAPROXY, Kind.PAUSE_HAPROXY, Kind.KILL_PROXY_MANAGER, Kind.KILL_PROXY]
        if has("decode"):
            found += [Kind.KILL_DECODE, Kind.KILL_PREFILL, Kind.PAUSE_DECODE, Kind.PAUSE_PREFILL]
            found += [Kind.SILENCE_DECODE, Kind.SILENCE_PREFILL, Kind.KILL_TWO]
        if has("draft"):
            found += [Kind.KILL_DRAFT, Kind.PAUSE_DRAFT]
        if self._ranks():
            found += [Kind.KILL_RANK]
        if self._cluster.num_replicas > 1:
            found += [Kind.KILL_REPLICA, Kind.PAUSE_REPLICA]
        return found + self._changes.kinds()

    async def follow(self, planned: Sequence[Planned]) -> int:
        """Does them in order, none before the last one is over; returns how many it did."""
        for number, one in enumerate(planned):
            await asyncio.sleep(max(0.0, one.at_s - self._clock()))
            await self.do(one)
            if number + 1 < len(planned) and self._clock() > planned[-1].at_s:
                return number + 1
        return len(planned)

    async def do(self, planned: Planned) -> Happening:
        self._killed = frozenset()
        happening = Happening(kind=planned.kind, begin_s=self._clock())
        self.happenings.append(happening)
        try:
            await self._act(planned, happening)
            await self._recovered(happening)
        except (FeedError, CommandError, ProcessLookupError, LookupError, TimeoutError) as error:
            happening.error = f"{type(error).__name__}: {error or 'the public ports do not answer'}"
        else:
            happening.over_s = self._clock()
        return happening

    async def _act(self, planned: Planned, happening: Happening) -> None:
        if planned.kind in KILLS:
            await self._kill(planned, happening, *KILLS[planned.kind])
        elif planned.kind in PAUSES:
            await self._pause(planned, happening, *PAUSES[planned.kind])
        elif planned.kind is Kind.KILL_RANK:
            await self._kill(planned, happening, self._ranks()[0])
        elif planned.kind is Kind.BURST:
            self._burst()
        else:
            happening.victim, happening.note = await self._changes.do(planned)

    async def _kill(self, planned: Planned, happening: Happening, *kinds: str) -> None:
        victims = [self._victim(planned, kind) for kind in kinds]
        happening.victim = ", ".join(f"{kind} {pid}" for kind, pid in zip(kinds, victims, strict=True))
        happening.begin_s = self._clock()
        self._killed = frozenset(victims)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        for pid in victims:
            await self._gone(pid)

    async def _pause(self, planned: Planned, happening: Happening, kind: str, pause_s: float) -> None:
        pid = self._victim(planned, kind)
        happening.victim, happening.note = f"{kind} {pid}", f"for {pause_s:g} s"
        happening.begin_s = self._clock()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(pause_s)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
                os.kill(pid, signal.SIGCONT)

    def _victim(self, planned: Planned, kind: str) -> int:
        pids = self._cluster.pids(kind, self._watch.view)
        if not pids:
            raise LookupError(f"no {kind} runs")
        return pids[int(planned.lot * len(pids))]

    def _ranks(self) -> list[str]:
        """Kinds of processes that are a worker's rank, not its first."""
        workers: Sequence[Mapping[str, object]] = workers_of(self._watch.view)
        return [f"{pool_of(str(worker['worker_id']))} rank 1" for worker in workers if len(worker["ranks"]) > 1]  # type: ignore[arg-type]

    async def _gone(self, pid: int) -> None:
        for _ in range(200):
            if not is_alive(pid):
                return
            await asyncio.sleep(0.05)
        raise FeedError(f"process {pid} outlived SIGKILL by 10 s")

    async def _recovered(self, happening: Happening) -> None:
        """By a view that was taken after all was done, and no longer knows whom it was done to."""
        done_at_s = self._watch.view_s
        await asyncio.sleep(1.0)
        what = f"whole after {happening.kind}"

        def is_so(view: View) -> bool:
            is_new = self._watch.view_s > done_at_s + 1.0 and not self._killed & pids_of(view)
            return is_new and is_whole(view, self._cluster.num_replicas)

        async with asyncio.timeout(RECOVERY_S + 5):  # the ports, which have no word of their own
            await self._watch.wait(what, is_so, RECOVERY_S)
            await answering(self._cluster)


async def answering(cluster: SoakCluster) -> None:
    """Until both public ports answer NUM_ANSWERS times in a row, each time over a connection of its own."""
    num_well = 0
    while num_well < NUM_ANSWERS:
        num_well = num_well + 1 if await _answers(cluster) else 0
        await asyncio.sleep(0.1)


async def _answers(cluster: SoakCluster) -> bool:
    try:
        async with aiohttp.ClientSession(cluster.http) as http, http.get("/health") as reply:
            if reply.status != 200:
                return False
        async with baton.AsyncClient(cluster.grpc, max_retries=0) as sdk:
            return await sdk.health() == "serving"
    except (aiohttp.ClientError, BatonError, ConnectionError):
        return False


def is_alive(pid: int) -> bool:
    """Zombies, which nobody has asked after yet, are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
