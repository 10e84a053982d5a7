"""The one actor that keeps the pools as the config wants them. Nothing of a request passes through here.

It may die at any time: what is wanted is in Ray's key-value store, who runs is in the actors' names, and a new
controller adopts both. Decisions are `cluster.fleet.tick`'s; this file carries them out.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from baton.errors import BatonError
from baton.v1.worker_pb2 import WorkerState
from cluster.config.load import dump
from cluster.config.schema import AUTO, DEFAULT_MODEL, FALLBACK_MODEL, SPREAD, BatonConfig
from cluster.fleet import launch, nodes, plan
from cluster.fleet.cores import thread_env
from cluster.fleet.owner import Owner
from cluster.fleet.places import Ground, Taken, check_gpus
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord, first_line
from cluster.fleet.shell import WORKER_CLASS
from cluster.fleet.status import FleetStatus, PoolStatus, RankStatus
from cluster.fleet.tick import (
    LIVE,
    Action,
    Drain,
    FleetLimits,
    Replace,
    Start,
    Stop,
    WorkerPhase,
    tick,
    worker_id,
)
from cluster.models.find import Silent, find_model, resolve_config
from cluster.router.workers import WorkerEntry
from workers.spec import SERVING_ROLES, Role

TICK_S = 0.25
PING_S = 0.5
STOP_TIMEOUT_S = 3.0
INGRESS_TIMEOUT_S = 3.0  # a replica asks for the table twice a second

logger = logging.getLogger(__name__)


class Controller:
    """An async Ray actor; `worker_class` and `worker_env` are for tests."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        *,
        namespace: str,
        secret: str,
        owner: Owner,
        worker_class: str = WORKER_CLASS,
        worker_env: Mapping[str, str] | None = None,
    ) -> None:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
        self._namespace = namespace
        self._secret = secret
        self._owner = owner
        self._ingresses: dict[str, float] = {}  # replica's id -> when it asked last
        self._worker_class = worker_class
        self._worker_env = dict(worker_env or {})
        self._workers: dict[str, WorkerRecord] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Task[None]] = set()  # those of them that end a process
        self._nodes: list[nodes.Node] = []
        self._cores: dict[str, tuple[int, ...]] = {}  # node id -> its cores
        self._wake = asyncio.Event()
        self._stopping = False
        self._drain_timeout_s: float | None = None  # of a shutdown; None: the config's
        self._plan = plan.load_saved(namespace)
        if self._plan is not None:
            self._adopt()
        self._spawn(self._run())

    async def apply(self, config: BatonConfig) -> FleetPlan:
        """Makes `config` what is wanted, at once; the workers follow (see `status`).

        Raises: ConfigError: no such model or device, or a change that needs `baton down` first.
        """
        around = nodes.alive()
        config = await asyncio.to_thread(resolve_config, self._with_running_model(config), Silent())
        device = nodes.resolve_device(config.device, around)
        new = plan.resolve(
            config,
            device=device,
            dtype=nodes.resolve_dtype(config.dtype, device),
            model_path=str(await asyncio.to_thread(find_model, config.model)),
        )
        if self._plan is not None:
            plan.check_change(self._plan, new)
        for role in SERVING_ROLES if device == "cuda" else ():
            check_gpus(around, role.value, new.pool(role), nodes.gpu_share(around, new.num_ranks))
        plan.save(self._namespace, new)
        self._plan = new
        self._stopping = False
        self._wake.set()
        logger.info("applied desired=%s device=%s dtype=%s", new.desired, device, new.config.dtype)
        return new

    def _with_running_model(self, config: BatonConfig) -> BatonConfig:
        """Where the model is left to us, a running cluster keeps the one that was chosen at its start."""
        if config.model == AUTO and self._plan and self._plan.config.model in (DEFAULT_MODEL, FALLBACK_MODEL):
            return replace(config, model=self._plan.config.model)
        return config

    async def owner(self) -> Owner:
        return self._owner

    async def workers(self, ingress_id: str = "") -> list[WorkerEntry]:
        """The workers that serve, those that drain included. `ingress_id`: of the ingress replica that asks."""
        if ingress_id:
            self._ingresses[ingress_id] = time.monotonic()
        return [entry for worker in self._workers.values() if (entry := worker.entry()) is not None]

    async def status(self) -> FleetStatus:
        desired = self._desired()
        pools = tuple(
            PoolStatus(role=role.value, num_desired=count, num_ready=self._num_ready(role))
            for role, count in desired.items()
            if count or self._num_ready(role)
        )
        return FleetStatus(
            ready=self._plan is not None and all(pool.num_ready == pool.num_desired for pool in pools),
            config=dump(self._plan.config) if self._plan else "",
            model_path=self._plan.model_path if self._plan else "",
            num_ingress_replicas=self._num_ingresses(),
            pools=pools,
            workers=tuple(worker.status(time.monotonic()) for worker in self._workers.values()),
        )

    async def shutdown(self, drain_timeout_s: float) -> None:
        """Drains all workers, ends them, and forgets the config. Idempotent; `apply` begins anew."""
        self._stopping = True
        self._drain_timeout_s = drain_timeout_s
        plan.forget(self._namespace)
        self._wake.set()
        deadline = time.monotonic() + drain_timeout_s + 2 * STOP_TIMEOUT_S
        while self._live() and time.monotonic() < deadline:  # noqa: ASYNC110, many tasks end it
            await asyncio.sleep(0.05)
        for worker in self._live():
            self._end(worker, WorkerPhase.STOPPED)
        if self._stops:
            await asyncio.wait(self._stops)
        self._plan = None
        self._drain_timeout_s = None

    async def _run(self) -> None:
        last_s = time.monotonic()
        try:
            while True:
                self._forgive(time.monotonic() - last_s)
                last_s = time.monotonic()
                await self._tick()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TICK_S)
                self._wake.clear()
        except Exception:
            logger.exception("controller failed; Ray starts another")
            os._exit(1)

    def _forgive(self, since_tick_s: float) -> None:
        """A turn that came late (a paused machine) held the workers' answers up too: that is no silence of theirs."""
        if since_tick_s > 4 * TICK_S:
            for worker in self._live():
                worker.heard_s = min(time.monotonic(), worker.heard_s + since_tick_s)

    async def _tick(self) -> None:
        if self._plan is None:
            return
        actions = self._decide()
        if any(isinstance(action, Start) for action in actions):
            await self._learn_nodes()
            actions = self._decide()
        for action in actions:
            match action:
                case Start(role, index, num_failures):
                    self._start(role, index, num_failures)
                case Drain(name):
                    self._move(self._workers[name], WorkerPhase.DRAINING)
                    self._spawn(self._drain(self._workers[name]))
                case Stop(name):
                    self._end(self._workers[name], WorkerPhase.STOPPED)
                case Replace(name, reason):
                    self._end(self._workers[name], WorkerPhase.FAILED, reason)

    def _decide(self) -> list[Action]:
        observed = [worker.observed() for worker in self._workers.values()]
        return tick(self._desired(), observed, self._limits(), time.monotonic()) if self._plan else []

    async def _learn_nodes(self) -> None:
        self._nodes = await nodes.reachable(nodes.alive())
        for node in self._nodes:
            if not self._cores.get(node.node_id):
                self._cores[node.node_id] = await nodes.cores_of(node)

    def _desired(self) -> dict[Role, int]:
        return {} if self._plan is None or self._stopping else self._plan.desired

    def _limits(self) -> FleetLimits:
        assert self._plan is not None
        health = self._plan.config.health
        return FleetLimits(
            start_timeout_s=health.start_timeout_s,
            step_timeout_s=health.step_timeout_s,
            silence_timeout_s=health.silence_timeout_s,
            drain_timeout_s=health.drain_timeout_s if self._drain_timeout_s is None else self._drain_timeout_s,
        )

    def _start(self, role: Role, index: int, num_failures: int) -> None:
        now = time.monotonic()
        name = worker_id(role, index)
        old = self._workers.get(name)
        worker = WorkerRecord(
            worker_id=name,
            role=role,
            index=index,
            incarnation=secrets.token_hex(4),
            num_failures=num_failures,
            entered_s=now,
            heard_s=now,
            error=old.error if old else "",
            error_is_final=old.error_is_final if old else False,
        )
        self._launch(worker)
        self._workers[name] = worker
        self._spawn(self._attend(worker))

    def _launch(self, worker: WorkerRecord) -> None:
        assert self._plan is not None
        pool, ground = self._plan.pool(worker.role), self._ground()
        worker.ranks = ground.places(worker.worker_id, worker.role.value, worker.index, pool)
        worker.launched = launch.launch(
            [self._rank(worker, rank, ground) for rank in range(pool.num_ranks)],
            worker.incarnation,
            namespace=self._namespace,
            spread=pool.placement == SPREAD and pool.num_ranks > 1,
            worker_class=self._worker_class,
        )
        logger.info("starting worker_id=%s incarnation=%s cores=%s", worker.worker_id, worker.incarnation, worker.cores)

    def _ground(self) -> Ground:
        assert self._plan is not None
        return Ground(
            nodes=self._nodes,
            cores=self._cores,
            taken=[
                Taken(worker_id=worker.worker_id, role=worker.role.value, rank=rank)
                for worker in self._live()
                for rank in worker.ranks
            ],
            num_ranks=self._plan.num_ranks,
            device=self._plan.config.device,
        )

    def _rank(self, worker: WorkerRecord, rank: int, ground: Ground) -> launch.RankPlace:
        assert self._plan is not None
        place = worker.ranks[rank]
        others = (*worker.ranks[:rank], *worker.ranks[rank + 1 :])
        node = next(node for node in ground.nodes if node.node_id == place.node_id)
        num_gpus = nodes.gpu_share(ground.nodes, ground.num_ranks) if ground.device == "cuda" else 0.0
        spec = plan.worker_spec(
            self._plan,
            worker.worker_id,
            worker.role,
            cores=place.cores,
            host=node.address,
            secret=self._secret,
            rank=rank,
            shares_device=num_gpus < 1.0,
        )
        return launch.RankPlace(
            spec=spec,
            node_id=node.node_id,
            address=node.address,
            num_gpus=num_gpus,
            env=thread_env(len(place.cores), exclusive=ground.is_exclusive(place, others)) | self._worker_env,
        )

    def _adopt(self) -> None:
        """Takes over the workers that an earlier controller started."""
        now = time.monotonic()
        for found in launch.find(self._namespace):
            name = worker_id(found.role, found.index)
            if name in self._workers:
                launch.end(found.launched)
                continue
            worker = WorkerRecord(
                worker_id=name,
                role=found.role,
                index=found.index,
                incarnation=found.incarnation,
                num_failures=0,
                entered_s=now,
                heard_s=now,
                launched=found.launched,
                ranks=tuple(RankStatus() for _ in found.launched.actors),
            )
            self._workers[name] = worker
            self._spawn(self._attend(worker))
        logger.info("adopted workers=%s", sorted(self._workers))

    async def _attend(self, worker: WorkerRecord) -> None:
        """From its start to its end: a call to each rank is always under way, so that its death is known at once."""
        assert worker.launched is not None
        leader, *others = worker.launched.actors
        try:
            await asyncio.gather(*(self._started(worker, *ranked) for ranked in enumerate((leader, *others))))
            for rank, actor in enumerate(others, 1):
                self._spawn(self._watch(worker, rank, actor))
            if worker.phase is WorkerPhase.STARTING:
                self._move(worker, WorkerPhase.READY)
            while worker.phase in LIVE:
                await self._ping(worker, leader)
                await asyncio.sleep(PING_S)
        except RayError as error:
            self._fail(worker, 0, error)

    async def _started(self, worker: WorkerRecord, rank: int, actor: Any) -> None:
        try:
            worker.take(rank, await actor.start.remote())
        except RayError as error:
            self._fail(worker, rank, error)
            raise

    async def _watch(self, worker: WorkerRecord, rank: int, actor: Any) -> None:
        try:
            await actor.ended.remote()
        except RayError as error:
            self._fail(worker, rank, error)

    def _fail(self, worker: WorkerRecord, rank: int, error: RayError) -> None:
        if worker.phase in LIVE:
            cause = getattr(error, "cause", None) or error
            worker.error_is_final = isinstance(cause, BatonError) and not cause.retryable
            died = isinstance(cause, ActorDiedError) and len(worker.ranks) > 1
            whose = f"rank {rank}: " if rank or died else ""
            where = "; ranks end together, and their logs say which one was first" if died else ""
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
        self._wake.set()
        assert worker.launched is not None
        if phase is WorkerPhase.STOPPED and worker.facts is not None:
            stop = self._spawn(self._stop(worker.launched))
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)
        else:
            launch.end(worker.launched)

    async def _stop(self, launched: launch.Launched) -> None:
        """Lets the process close its connections, then ends it."""
        try:
            await asyncio.wait_for(_answer(launched.actors[0].stop.remote()), STOP_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            logger.info("worker did not stop by itself error=%s", first_line(error))
        finally:
            launch.end(launched)

    def _move(self, worker: WorkerRecord, phase: WorkerPhase) -> None:
        worker.move(phase, time.monotonic())
        self._wake.set()

    def _live(self) -> list[WorkerRecord]:
        return [worker for worker in self._workers.values() if worker.phase in LIVE]

    def _num_ingresses(self) -> int:
        now_s = time.monotonic()
        self._ingresses = {one: at_s for one, at_s in self._ingresses.items() if now_s - at_s < INGRESS_TIMEOUT_S}
        return len(self._ingresses)

    def _num_ready(self, role: Role) -> int:
        return sum(worker.role is role and worker.phase is WorkerPhase.READY for worker in self._workers.values())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("controller task failed", exc_info=task.exception())


async def _answer(reference: Any) -> Any:
    return await reference
