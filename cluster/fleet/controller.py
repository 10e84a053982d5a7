"""The one actor that keeps the pools as the config wants them. Nothing of a request passes through here.

It may die at any time: what is wanted is in Ray's key-value store, who runs is in the actors' names, and a new
controller adopts both. Decisions are `cluster.fleet.tick`'s, the workers themselves `crew`'s, their places `seating`'s;
this file knows what is wanted.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from baton.errors import UnavailableError
from cluster.config.load import dump
from cluster.config.schema import AUTO, DEFAULT_MODEL, FALLBACK_MODEL, BatonConfig
from cluster.contracts.demand import DemandAnswer, DemandReport
from cluster.contracts.events import Event, EventKind, EventLog
from cluster.contracts.served_model import ModelTable, ServedModel, worker_prefix
from cluster.doors.budget import Ask, Grant, Ledger
from cluster.fleet import node_drain, nodes, plan
from cluster.fleet.adapter_keeper import AdapterKeeper
from cluster.fleet.adapters_of import adapters_of
from cluster.fleet.autopilot import FleetAutopilot, Hands
from cluster.fleet.beside import Beside
from cluster.fleet.crew import STOP_TIMEOUT_S, Crew
from cluster.fleet.ingresses import Ingresses
from cluster.fleet.known_costs import known_costs
from cluster.fleet.lease import Lease, RayStore
from cluster.fleet.models import Models, tell_first
from cluster.fleet.node_drain import NodeStatus
from cluster.fleet.owner import Owner
from cluster.fleet.places import check_gpus
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.role_keeper import RoleKeeper, WorkerRole, kept_roles
from cluster.fleet.rolling import Rolling
from cluster.fleet.seating import Seating
from cluster.fleet.shell import WORKER_CLASS
from cluster.fleet.status import FleetStatus, PoolStatus, WorkerStatus
from cluster.fleet.tick import Action, Drain, FleetLimits, Replace, Start, Stop, WorkerPhase, worker_id
from cluster.logs.setup import set_up
from cluster.models.find import Silent, find_draft, find_model, resolve_config
from cluster.router.workers import WorkerEntry
from workers.adapters.adapter import AdapterSpec
from workers.role_rules import RoleChanged
from workers.spec import SERVING_ROLES, Role

TICK_S = 0.25

logger = logging.getLogger(__name__)


class Controller:
    """An async Ray actor; `worker_class` and `worker_env` are for tests."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        *,
        namespace: str,
        secret: str,
        owner: Owner,
        entry: str = "",
        worker_class: str = WORKER_CLASS,
        worker_env: Mapping[str, str] | None = None,
    ) -> None:
        self._namespace = namespace
        self._owner = owner
        self._entry = entry
        self._prefix = worker_prefix(entry, is_first=not entry)
        self._models = Models(namespace, tell=self.tell)
        self._seats_changed = True
        self._ledger = Ledger()
        self._ingresses = Ingresses()
        self._wake = asyncio.Event()
        self._stopping = False
        self._drain_timeout_s: float | None = None  # of a shutdown; None: the config's
        self._plan = plan.load_saved(namespace)
        set_up(self._plan.config.logging.format if self._plan is not None else None)
        self._events = EventLog()
        self._crew = Crew(
            namespace=namespace,
            worker_class=worker_class,
            limits=self._limits,
            wake=self._wake.set,
            moved=self._worker_moved,
        )
        self._seating = Seating(
            plan=self._wanted,
            workers=lambda: list(self._crew.workers.values()),
            secret=secret,
            worker_env=worker_env or {},
            prefix=self._prefix,
            beside=Beside(namespace),
        )
        self._rolling = Rolling(
            key=namespace,
            plan=self._wanted,
            crew=self._crew,
            seating=self._seating,
            tell=self.tell,
            is_asked_for=lambda model: self._ingresses.all_ask_for(model, time.monotonic()),
        )
        self._adapters = AdapterKeeper(
            plan=self._wanted,
            save=self._take,
            workers=lambda: [one for one in self._crew.workers.values() if self._rolling.serves_wanted_model(one)],
            spawn=self._crew.spawn,
        )
        self._roles = RoleKeeper(
            plan=self._wanted,
            save=self._take,
            workers=lambda: list(self._crew.workers.values()),
            spawn=self._crew.spawn,
            tell=self.tell,
        )
        self._lease = Lease(f"{namespace}.controller", RayStore())
        self._autopilot = FleetAutopilot(
            Hands(
                plan=lambda: None if self._stopping else self._plan,
                save=self._take,
                workers=lambda: list(self._crew.workers.values()),
                roles=self._serving_roles,
                set_role=self._roles.change,
                tell=self.tell,
            ),
            self._lease,
        )
        self._crew.spawn(self._autopilot.run())
        if self._plan is not None:
            self._crew.adopt()
        else:
            self._crew.clear()
            self._seating.forget()
        self._crew.spawn(self._run())

    async def apply(self, config: BatonConfig) -> FleetPlan:
        """Makes `config` what is wanted, at once; the workers follow (see `status`).

        Raises: ConfigError: no such model or device, or a change that needs `baton down` first.
        """
        around = nodes.alive()
        config = await asyncio.to_thread(resolve_config, self._with_running_model(config), Silent())
        choosy = any(pool.is_choosy for _, pool in config.pools.by_name())
        device = nodes.resolve_device(config.device, around, more_may_come=choosy)
        folder = await asyncio.to_thread(find_model, config.model)
        new = plan.resolve(
            config,
            device=device,
            dtype=nodes.resolve_dtype(config.dtype, device),
            model_path=str(folder),
            draft_path=await asyncio.to_thread(find_draft, config),
            adapters=await asyncio.to_thread(adapters_of, config, folder, self._plan),
            drained=self._plan.drained if self._plan is not None else (),
        )
        if self._plan is not None:
            plan.check_change(self._plan, new)
            new = replace(new, roles=kept_roles(self._plan.roles, new))
        for role in [role for role, count in new.desired.items() if count] if device == "cuda" else ():
            check_gpus(around, role.value, new.pool(role), new.gpus(role, around, self._seating.num_beside()))
        await asyncio.to_thread(known_costs, new.config)
        self._turn_to(new, "the change of the config")
        self._autopilot.changed_by_hand()
        self._stopping = False
        logger.info("applied desired=%s device=%s dtype=%s", new.desired, device, new.config.dtype)
        self.tell(EventKind.CONFIG, "config", "a config was applied")
        return new

    def tell(self, kind: EventKind, subject: str, text: str, *, is_trouble: bool = False) -> None:
        """An event, for those who look: they ask the first controller."""
        self._events.tell(kind, subject, text, time.time(), is_trouble=is_trouble)
        if self._entry:
            self._crew.spawn(tell_first(self._entry, kind, subject, text, is_trouble=is_trouble))

    def _worker_moved(self, worker: WorkerRecord) -> None:
        is_well = worker.phase in (WorkerPhase.STARTING, WorkerPhase.READY)  # its error is of the time before
        why = f": {worker.error}" if worker.error and not is_well else ""
        failed = worker.phase is WorkerPhase.FAILED
        self._seats_changed = True
        self.tell(EventKind.WORKER, f"{self._prefix}{worker.worker_id}", f"is {worker.phase}{why}", is_trouble=failed)

    async def events(self, after: int = 0) -> tuple[Event, ...]:
        """What happened since event `after`, as far as it is kept."""
        return self._events.after(after)

    def _turn_to(self, new: FleetPlan, why: str) -> None:
        """The change is kept before the plan: a controller that dies in between has nothing to replace."""
        before, self._plan = self._plan, new
        if before is None or before.config.logging != new.config.logging:
            set_up(new.config.logging.format)
        if before is not None:
            self._rolling.begin(before, why)
        plan.save(self._namespace, new)
        self._wake.set()

    async def finished(self, report: DemandReport) -> DemandAnswer:
        """What an ingress replica was asked for; answered with the limits that hold."""
        return self._autopilot.take(report)

    def _serving_roles(self) -> dict[str, Role]:
        """Wanted, of every slot that takes requests."""
        wanted, desired = self._plan, self._desired()
        slots = [(worker_id(pool, index), pool) for pool in SERVING_ROLES for index in range(desired.get(pool, 0))]
        return {name: wanted.role_of(name, pool) for name, pool in slots} if wanted is not None else {}

    def _take(self, new: FleetPlan) -> None:
        """Raises: UnavailableError: another controller decides what is wanted by now."""
        if not self._lease.holds:
            raise UnavailableError("another controller has taken over; this one changes nothing any more")
        plan.save(self._namespace, new)
        self._plan = new

    async def load_adapter(self, name: str, folder: str) -> None:
        """Raises: as `AdapterKeeper.load`."""
        self._check_running()
        await self._adapters.load(name, folder)

    async def unload_adapter(self, name: str) -> None:
        """Raises: as `AdapterKeeper.unload`."""
        self._check_running()
        await self._adapters.unload(name)

    async def adapters(self) -> tuple[AdapterSpec, ...]:
        return self._plan.adapters if self._plan is not None else ()

    async def set_role(self, worker_id: str, role: Role | None) -> RoleChanged:
        """None: its pool's. Raises: as `RoleKeeper.change`."""
        self._check_running()
        self._autopilot.changed_by_hand()
        return await self._roles.change(worker_id.removeprefix(self._prefix), role)

    async def roles(self) -> tuple[WorkerRole, ...]:
        return tuple(replace(one, worker_id=f"{self._prefix}{one.worker_id}") for one in self._roles.all())

    def _check_running(self) -> None:
        if self._plan is None or self._stopping:
            raise UnavailableError("the cluster is coming up or going down; try again when it is ready")

    def _with_running_model(self, config: BatonConfig) -> BatonConfig:
        """Where the model is left to us, a running cluster keeps the one that was chosen at its start."""
        if config.model == AUTO and self._plan and self._plan.config.model in (DEFAULT_MODEL, FALLBACK_MODEL):
            return replace(config, model=self._plan.config.model)
        return config

    async def owner(self) -> Owner:
        return self._owner

    async def workers(self, ingress_id: str = "", node_id: str = "", model: str = "") -> list[WorkerEntry]:
        """The workers that serve, those that drain included. For an ingress replica, on a node, that asks."""
        if ingress_id:
            self._ingresses.ask(ingress_id, node_id, model, time.monotonic())
        entries = (worker.entry() for worker in self._crew.workers.values())
        return [replace(entry, worker_id=f"{self._prefix}{entry.worker_id}") for entry in entries if entry is not None]

    async def draw(self, ask: Ask) -> Grant:
        """Of the limits of an API key, for one ingress replica of several."""
        return self._ledger.draw(ask, time.monotonic())

    async def models(self, ingress_id: str, version: int, num_open: Mapping[str, int]) -> ModelTable | None:
        """See `ModelBook.hear`."""
        return self._models.book.hear(ingress_id, version, num_open, time.monotonic())

    async def model_table(self) -> ModelTable:
        return self._models.book.table

    async def serve_models(self, models: Sequence[ServedModel]) -> None:
        """See `ModelBook.put`; ingress replicas follow within a second."""
        self._models.serve(models)

    async def weigh(self, served_name: str, weights: Mapping[str, float] | None) -> None:
        """Raises: ConfigError: see `ModelBook.weigh`."""
        self._models.weigh(served_name, weights)

    async def not_served(self, entries: Sequence[str]) -> list[str]:
        """See `ModelBook.not_served`."""
        return self._models.book.not_served(entries, time.monotonic())

    async def is_quiet(self, entry: str) -> bool:
        """Whether every ingress replica knows what is served now, and has no call of this entry open."""
        return self._models.is_quiet(entry)

    async def forget_model(self, entry: str) -> None:
        self._models.book.forget(entry)

    async def clear_models(self) -> None:
        self._models.book.clear()

    async def switched(self) -> None:
        """The ingress asks the workers of another model from now on: those of the old one may go."""
        self._rolling.switched()

    async def drain_node(self, name: str, undo: bool) -> str:
        """No worker is placed on it from now on, and those that are there are replaced elsewhere.

        Returns: its id. Raises: InvalidRequestError: there is no such node, or it cannot be empty.
        """
        self._check_running()
        around = nodes.alive()
        node = node_drain.find_node(name, around)
        new = node_drain.with_drained(self._wanted(), node, around, undo=undo)
        self._turn_to(new, f"emptying node {node.address}")
        self.tell(EventKind.NODE, node.address, "may have workers again" if undo else "is to be empty")
        return node.node_id

    async def nodes(self) -> tuple[NodeStatus, ...]:
        workers, ingresses = self._crew.workers.values(), self._ingresses.occupied(time.monotonic())
        return node_drain.statuses(nodes.alive(), self._wanted(), workers, ingresses, prefix=self._prefix)

    async def plan(self) -> FleetPlan:
        """Raises: UnavailableError: nothing is wanted."""
        self._check_running()
        return self._wanted()

    async def status(self) -> FleetStatus:
        """Of all models, where this controller is the first; else of its own."""
        return await self._models.status(self._own_status())

    async def own_status(self) -> FleetStatus:
        """Of its own fleet."""
        return self._own_status()

    def _own_status(self) -> FleetStatus:
        desired = self._plan.desired_by_role if self._desired() and self._plan is not None else {}
        pools = tuple(
            PoolStatus(
                role=role.value, num_desired=count, num_ready=self._crew.num_ready(role), waits=self._waits(role)
            )
            for role, count in desired.items()
            if count or self._crew.num_ready(role) or self._waits(role)
        )
        return FleetStatus(
            ready=self._plan is not None and all(pool.is_whole for pool in pools if pool.serves),
            config=dump(self._plan.config) if self._plan else "",
            model_path=self._plan.model_path if self._plan else "",
            num_ingress_replicas=len(self._ingresses.nodes(time.monotonic())),
            pools=pools,
            workers=tuple(self._worker_status(worker) for worker in self._crew.workers.values()),
            refused=self._seating.refused,
            rollout=self._rolling.status(self._desired(), time.monotonic()) if self._plan else None,
            drained=self._plan.drained if self._plan else (),
            autopilot=self._autopilot.status,
        )

    def _worker_status(self, worker: WorkerRecord) -> WorkerStatus:
        told = worker.status(time.monotonic())
        return replace(told, worker_id=f"{self._prefix}{told.worker_id}")

    def _waits(self, role: Role) -> str:
        return self._seating.waits(role, time.monotonic()) if self._desired().get(role) else ""

    async def shutdown(self, drain_timeout_s: float) -> None:
        """Drains all workers, ends them, and forgets the config. Idempotent; `apply` begins anew."""
        self._stopping = True
        self._drain_timeout_s = drain_timeout_s
        plan.forget(self._namespace)
        self._rolling.forget()
        self._wake.set()
        deadline = time.monotonic() + drain_timeout_s + 2 * STOP_TIMEOUT_S
        while self._crew.live and time.monotonic() < deadline:  # noqa: ASYNC110, many tasks end it
            await asyncio.sleep(0.05)
        for worker in self._crew.live:
            self._crew.end(worker.worker_id, WorkerPhase.STOPPED)
        await self._crew.ended()
        self._plan = None
        self._drain_timeout_s = None
        self._seating.forget()

    async def _run(self) -> None:
        last_s = time.monotonic()
        try:
            while True:
                if (since_tick_s := time.monotonic() - last_s) > 4 * TICK_S:
                    self._crew.forgive(since_tick_s)
                last_s = time.monotonic()
                self._tick()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TICK_S)
                self._wake.clear()
        except Exception:
            logger.exception("controller failed; Ray starts another")
            os._exit(1)

    def _tick(self) -> None:
        if self._plan is None:
            return
        for action in self._decide():
            match action:
                case Start():
                    self._rolling.start(action)
                case Drain(name):
                    self._crew.drain(name)
                case Stop(name):
                    self._crew.end(name, WorkerPhase.STOPPED)
                case Replace(name, reason):
                    self._crew.end(name, WorkerPhase.FAILED, reason)
        self._crew.forget_unwanted(self._desired())
        if self._seats_changed:
            self._seats_changed = False
            self._seating.tell()
        self._adapters.mend()
        if not self._stopping:
            self._roles.mend()

    def _decide(self) -> list[Action]:
        return self._rolling.decide(self._desired(), self._limits(), time.monotonic()) if self._plan else []

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

    def _wanted(self) -> FleetPlan:
        assert self._plan is not None
        return self._plan
