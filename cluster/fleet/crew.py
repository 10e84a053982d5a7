"""The workers of one controller: starts them, watches each from its start to its end, and ends them.

Invariant: at most one live worker per slot and side; of its last worker the record stays until the slot is not wanted.
Which workers there shall be, and where, is the controller's to say.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.util.placement_group import PlacementGroup

from baton.errors import BatonError, UnavailableError
from baton.v1.worker_pb2 import WorkerState
from cluster.fleet import launch
from cluster.fleet.generation import Generation
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord, first_line
from cluster.fleet.seating import Seating
from cluster.fleet.status import RankStatus
from cluster.fleet.tick import LIVE, FleetLimits, Start, WorkerPhase, worker_id
from workers.spec import Role

PING_S = 0.5
LOOK_S = 0.01  # for a group's places, the first time; then less and less often
SEEK_S = 1.0  # between looks at most, and until places are sought again that could not be used: doubling up to the next
MAX_SEEK_S = 15.0
PIN_TIMEOUT_S = 10.0  # for nodes that have room by our own count
STOP_TIMEOUT_S = 3.0

logger = logging.getLogger(__name__)


class Crew:
    """For one event loop.

    Args:
        worker_class: See `cluster.fleet.shell`.
        limits: Of now.
        wake: There is something to decide.
        moved: A worker's phase has changed.
    """

    def __init__(
        self,
        *,
        namespace: str,
        worker_class: str,
        limits: Callable[[], FleetLimits],
        wake: Callable[[], None],
        moved: Callable[[WorkerRecord], None],
    ) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self._namespace = namespace
        self._worker_class = worker_class
        self._limits = limits
        self._wake = wake
        self._moved = moved
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()  # those of them that end a process

    @property
    def live(self) -> list[WorkerRecord]:
        return [worker for worker in self.workers.values() if worker.phase in LIVE]

    def num_ready(self, role: Role) -> int:
        """Of those that have the role now."""
        return sum(worker.role_now is role and worker.phase is WorkerPhase.READY for worker in self.workers.values())

    def start(self, start: Start, generation: Generation, seating: Seating, *, plan: FleetPlan | None = None) -> None:
        """A new worker for a slot and side whose last one is gone; it waits until `seating` has places for it.

        Args:
            plan: What it is started by, where that is not what is wanted.
        """
        now_s, name = time.monotonic(), worker_id(start.role, start.index, start.beside)
        old = self.workers.get(name)
        worker = WorkerRecord(
            worker_id=name,
            role=start.role,
            index=start.index,
            beside=start.beside,
            incarnation=generation.incarnation(),
            num_failures=start.num_failures,
            plan=plan,
            entered_s=now_s,
            heard_s=now_s,
            error=old.error if old else "",
            error_is_final=old.error_is_final if old else False,
        )
        self.workers[name] = worker
        self.spawn(self._begin(worker, seating))

    def adopt(self) -> None:
        """Takes over the workers that an earlier controller started."""
        now_s = time.monotonic()
        for found in launch.find(self._namespace):
            name = worker_id(found.role, found.index, found.beside)
            if name in self.workers:
                launch.end(found.launched)
                continue
            self._take(
                WorkerRecord(
                    worker_id=name,
                    role=found.role,
                    index=found.index,
                    beside=found.beside,
                    incarnation=found.incarnation,
                    num_failures=0,
                    entered_s=now_s,
                    heard_s=now_s,
                    phase=WorkerPhase.STARTING,
                    launched=found.launched,
                    ranks=tuple(RankStatus() for _ in found.launched.actors),
                )
            )
        logger.info("adopted workers=%s", sorted(self.workers))

    def clear(self) -> None:
        """Ends what is left of a cluster that is wanted no more: an earlier controller died while it ended it."""
        for found in launch.find(self._namespace):
            logger.info("ended what was left worker_id=%s", worker_id(found.role, found.index, found.beside))
            launch.end(found.launched)

    def _take(self, worker: WorkerRecord) -> None:
        self.workers[worker.worker_id] = worker
        self.spawn(self._attend(worker))

    def drain(self, name: str) -> None:
        """Lets it finish what runs, then ends it."""
        worker = self.workers[name]
        self._move(worker, WorkerPhase.DRAINING)
        self.spawn(self._drain(worker))

    def end(self, name: str, phase: WorkerPhase, reason: str = "") -> None:
        """To STOPPED, as wanted, or FAILED; idempotent."""
        self._end(self.workers[name], phase, reason)

    async def ended(self) -> None:
        """Until every process has ended that was let close its connections."""
        if self._stops:
            await asyncio.wait(self._stops)

    def forget_unwanted(self, desired: Mapping[Role, int]) -> None:
        """Slots that are wanted no more, once their worker has ended, and workers that were stopped for another, or
        that failed and have one like them in their place; a successor's failure is kept while the old one serves on."""
        filled = {(worker.role, worker.index) for worker in self.live}
        self.workers = {
            name: worker
            for name, worker in self.workers.items()
            if worker.phase in LIVE
            or (
                worker.index < desired.get(worker.role, 0)
                and not self._is_made_up_for(worker)
                and (worker.phase is WorkerPhase.FAILED or (worker.role, worker.index) not in filled)
            )
        }

    def _is_made_up_for(self, ended: WorkerRecord) -> bool:
        """Whether one like it has come up in its slot since, maybe on the other side: its record would stay on."""
        return any(
            worker.phase is WorkerPhase.READY
            and (worker.role, worker.index, worker.generation) == (ended.role, ended.index, ended.generation)
            and worker.entered_s > ended.entered_s
            for worker in self.live
        )

    def forget_failures(self) -> None:
        """What is wanted from now on has not failed yet."""
        self.workers = {name: worker for name, worker in self.workers.items() if worker.phase in LIVE}

    def forgive(self, late_s: float) -> None:
        """A turn that came so late (a paused machine) held the workers' answers up too: no silence of theirs."""
        for worker in self.live:
            worker.heard_s = min(time.monotonic(), worker.heard_s + late_s)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it; what it raises is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("controller task failed", exc_info=task.exception())

    # One worker's life.

    async def _begin(self, worker: WorkerRecord, seating: Seating) -> None:
        """From its first wish for places to its end."""
        try:
            places = await self._seat(worker, seating)
            if worker.phase is not WorkerPhase.WAITING:
                return
            assert worker.launched is not None
            assert worker.launched.group is not None
            worker.launched = launch.launch(
                worker.launched.group,
                places,
                worker.incarnation,
                namespace=self._namespace,
                worker_class=self._worker_class,
            )
        except (RayError, BatonError, ValueError) as error:
            self._fail(worker, 0, error)
            return
        logger.info("starting worker_id=%s incarnation=%s cores=%s", worker.worker_id, worker.incarnation, worker.cores)
        self._move(worker, WorkerPhase.STARTING)
        await self._attend(worker)

    async def _seat(self, worker: WorkerRecord, seating: Seating) -> list[launch.RankPlace]:
        """Asks for its places until it has some that can be used, or is wanted no more."""
        pinned, pause_s = True, SEEK_S
        while worker.phase is WorkerPhase.WAITING:
            wish = await seating.wish(worker, pinned=pinned)
            if worker.phase is not WorkerPhase.WAITING:
                break
            group = launch.reserve(wish, worker.worker_id, worker.incarnation, namespace=self._namespace)
            worker.launched = launch.Launched(actors=(), group=group)
            until_s = PIN_TIMEOUT_S if wish.spread and wish.targets else math.inf
            node_ids = await self._placed(worker, group, until_s)
            pinned = bool(node_ids)  # nodes that it named do not have it after all: any will do
            try:
                if node_ids:
                    return await seating.settle(worker, node_ids)
            except UnavailableError as error:
                if error.message != worker.refusal:
                    logger.warning("places cannot be used worker_id=%s why=%s", worker.worker_id, error.message)
                worker.refusal = error.message
            if worker.phase is WorkerPhase.WAITING:
                launch.end(worker.launched)
                worker.ranks = ()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_SEEK_S)
        return []

    async def _placed(self, worker: WorkerRecord, group: PlacementGroup, until_s: float) -> tuple[str, ...]:
        """The nodes where its places are; empty: none after so long, or it is wanted no more."""
        deadline, pause_s = time.monotonic() + until_s, LOOK_S
        while worker.phase is WorkerPhase.WAITING and time.monotonic() < deadline:
            if node_ids := await asyncio.to_thread(launch.where, group):
                return node_ids
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, SEEK_S)
            if pause_s == SEEK_S:
                worker.refusal = ""  # nobody gave it such a place again
        return ()

    async def _attend(self, worker: WorkerRecord) -> None:
        """From its start to its end: a call to each rank is always under way, so that its death is known at once."""
        assert worker.launched is not None
        actors = worker.launched.actors
        if worker.phase is WorkerPhase.STARTING:
            self.spawn(self._watch_loading(worker, actors))
        try:
            await asyncio.gather(*(self._started(worker, *ranked) for ranked in enumerate(actors)))
            for rank, actor in enumerate(actors):
                self.spawn(self._watch(worker, rank, actor))
            if worker.phase is WorkerPhase.STARTING:
                self._move(worker, WorkerPhase.READY)
            while worker.phase in LIVE:
                await self._ping(worker, actors[0])
                await asyncio.sleep(PING_S)
        except RayError as error:
            self._fail(worker, 0, error)

    async def _started(self, worker: WorkerRecord, rank: int, actor: Any) -> None:
        try:
            worker.take(rank, await actor.start.remote())
        except RayError as error:
            self._fail(worker, rank, error)
            raise

    async def _watch_loading(self, worker: WorkerRecord, actors: Sequence[Any]) -> None:
        """While it starts; what goes wrong meanwhile, its start tells."""
        with contextlib.suppress(RayError):
            while worker.phase is WorkerPhase.STARTING:
                told = await asyncio.gather(*(_answer(actor.loading.remote()) for actor in actors))
                if worker.phase is WorkerPhase.STARTING:
                    worker.loading = worker.loading.told(told, time.monotonic())
                await asyncio.sleep(PING_S)

    async def _watch(self, worker: WorkerRecord, rank: int, actor: Any) -> None:
        while worker.phase in LIVE:
            try:
                await actor.ended.remote()
            except ActorUnavailableError as error:  # nobody knows yet whether it has ended: it is asked again
                logger.warning(
                    "rank not reached worker_id=%s rank=%d error=%s", worker.worker_id, rank, first_line(error)
                )
                await asyncio.sleep(PING_S)
            except RayError as error:
                self._fail(worker, rank, error)

    def _fail(self, worker: WorkerRecord, rank: int, error: Exception) -> None:
        if worker.phase in LIVE:
            cause = getattr(error, "cause", None) or error
            worker.error_is_final = isinstance(cause, BatonError) and not cause.retryable
            died = isinstance(cause, ActorDiedError) and len(worker.ranks) > 1
            whose = f"rank {rank}: " if rank or died else ""
            where = "; ranks end together, and their logs say which one was first" if died else ""
            if worker.phase is WorkerPhase.STARTING and worker.one_of_nodes:
                where += f" (on node {worker.ranks[rank].node})"
            self._end(worker, WorkerPhase.FAILED, whose + first_line(cause) + where)

    async def _ping(self, worker: WorkerRecord, actor: Any) -> None:
        try:
            worker.state = WorkerState.FromString(await actor.state.remote())
            worker.heard_s = time.monotonic()
        except ActorDiedError:
            raise
        except ActorUnavailableError as error:
            logger.warning("worker did not answer worker_id=%s error=%s", worker.worker_id, first_line(error))

    async def _drain(self, worker: WorkerRecord) -> None:
        assert worker.launched is not None
        try:
            await worker.launched.actors[0].drain.remote(self._limits().drain_timeout_s)
        except RayError as error:
            self._end(worker, WorkerPhase.FAILED, first_line(error))
        else:
            self._end(worker, WorkerPhase.STOPPED)

    def _end(self, worker: WorkerRecord, phase: WorkerPhase, reason: str = "") -> None:
        if worker.phase not in LIVE:
            return
        worker.end(phase, reason, self._limits(), time.monotonic())
        self._moved(worker)
        self._wake()
        if worker.launched is None:
            return
        if phase is WorkerPhase.STOPPED and worker.facts is not None:
            stop = self.spawn(_stop(worker.launched))
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)
        else:
            launch.end(worker.launched)

    def _move(self, worker: WorkerRecord, phase: WorkerPhase) -> None:
        worker.move(phase, time.monotonic())
        self._moved(worker)
        self._wake()


async def _stop(launched: launch.Launched) -> None:
    """Lets the process close its connections, then ends it."""
    try:
        await asyncio.wait_for(_answer(launched.actors[0].stop.remote()), STOP_TIMEOUT_S)
    except (RayError, TimeoutError) as error:
        logger.info("worker did not stop by itself error=%s", first_line(error))
    finally:
        launch.end(launched)


async def _answer(reference: Any) -> Any:
    return await reference
