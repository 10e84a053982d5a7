"""Changes what workers do while they serve, and sees that each has the role that it shall have.

What shall be is the plan's, by which new workers are started too. A role is written there once its worker has it; so a
change that does not come to its end, whoever fails in the middle of it, is undone by `mend`.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from baton.errors import BatonError, InvalidRequestError, UnavailableError
from cluster.contracts.events import EventKind, TellEvent
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import WorkerPhase, slot_of
from cluster.fleet.worker_call import Call, call_worker
from workers.engine.wire_roles import TO_WIRE
from workers.role_rules import RoleChanged, check_role
from workers.spec import Role

STEP_TIMEOUT_S = 5.0  # for a worker's step in flight to end
LATE_S = 5.0  # until what a worker did not do is tried again

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRole:
    """One worker's, for those who look."""

    worker_id: str
    pool: Role
    role: Role  # of now
    phase: WorkerPhase


class RoleKeeper:
    """For one event loop.

    Args:
        plan, save: What is wanted now; the same with other roles, from now on.
        workers: The last worker of each slot.
        spawn: Runs something beside.
        tell: An event.
        call: Of a worker's method; None: over Ray.
    """

    def __init__(
        self,
        *,
        plan: Callable[[], FleetPlan],
        save: Callable[[FleetPlan], None],
        workers: Callable[[], Iterable[WorkerRecord]],
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        tell: TellEvent,
        call: Call | None = None,
    ) -> None:
        self._plan = plan
        self._save = save
        self._workers = workers
        self._spawn = spawn
        self._tell = tell
        self._call = call or call_worker
        self._changing: dict[str, Role] = {}  # worker id -> what it is to be
        self._retry_s: dict[str, float] = {}  # incarnation -> when it is mended again

    def all(self) -> tuple[WorkerRole, ...]:
        return tuple(
            WorkerRole(worker_id=worker.worker_id, pool=worker.role, role=worker.role_now, phase=worker.phase)
            for worker in self._workers()
        )

    async def change(self, name: str, role: Role | None) -> RoleChanged:
        """Returns when the worker has it. What fails leaves the worker as it was.

        Args:
            role: None: its pool's.

        Raises:
            InvalidRequestError: There is no such worker, it cannot have that role, or nobody could write answers any
                more.
            UnavailableError: Not now: it starts, drains or changes, or it did not do it in time.
            ConfigError: See `workers.role_change`.
        """
        worker = self._find(name)
        name = worker.worker_id
        wanted = worker.role if role is None else role
        check_role(name, worker.role, self._plan().pool(worker.role).gang, wanted)
        self._check_now(worker)
        self._check_rest(worker, wanted)
        self._changing[name] = wanted
        try:
            changed = await self._change(worker, wanted)
        except BatonError as error:
            self._tell(EventKind.ROLE, name, f"stays {worker.role_now}: {error.message}", is_trouble=True)
            raise
        finally:
            del self._changing[name]
        self._keep(worker, wanted)
        if changed.was is not wanted:
            self._tell(EventKind.ROLE, name, changed.text)
        return changed

    def mend(self) -> None:
        """Sets workers back that have a role which is not wanted: a change that was not finished, or an older plan's.

        Called now and then.
        """
        for worker in self._workers():
            if worker.phase is not WorkerPhase.READY or worker.state is None or worker.worker_id in self._changing:
                continue
            wanted = self._plan().role_of(worker.worker_id, worker.role)
            is_late = time.monotonic() >= self._retry_s.get(worker.incarnation, 0.0)
            if worker.role_now is not wanted and is_late:
                self._changing[worker.worker_id] = wanted
                self._spawn(self._set_back(worker, wanted))

    async def _set_back(self, worker: WorkerRecord, wanted: Role) -> None:
        name = worker.worker_id
        try:
            changed = await self._change(worker, wanted)
            if changed.was is not wanted:
                self._tell(EventKind.ROLE, name, f"set back: {changed.text}")
        except BatonError as error:
            logger.warning("a role was not set back worker_id=%s role=%s error=%s", name, wanted, error.message)
            self._retry_s = {worker.incarnation: time.monotonic() + LATE_S}
        finally:
            del self._changing[name]

    async def _change(self, worker: WorkerRecord, wanted: Role) -> RoleChanged:
        timeout_s = STEP_TIMEOUT_S + self._plan().config.health.start_timeout_s  # it may load a draft model
        changed: RoleChanged | None = await self._call(worker, "set_role", wanted, STEP_TIMEOUT_S, timeout_s=timeout_s)
        if changed is None:
            raise UnavailableError(f"worker {worker.worker_id} died meanwhile; another one comes in its place")
        if worker.state is not None:
            worker.state.role = TO_WIRE[wanted]  # its next report says so too
        logger.info(
            "role worker_id=%s from=%s to=%s moved=%d took_s=%.3f",
            *(worker.worker_id, changed.was, wanted, changed.num_moved, changed.took_s),
        )
        return changed

    def _keep(self, worker: WorkerRecord, role: Role) -> None:
        plan = self._plan()
        slot = slot_of(worker.worker_id)
        roles = {name: one for name, one in plan.roles.items() if name != slot}
        if role is not worker.role:
            roles[slot] = role
        if roles != plan.roles:
            self._save(replace(plan, roles=roles))

    def _find(self, name: str) -> WorkerRecord:
        workers = {worker.worker_id: worker for worker in self._workers()}
        in_slot = [one for one in workers.values() if slot_of(one.worker_id) == name]
        if in_slot and (name not in workers or workers[name].phase is not WorkerPhase.READY):
            return next((one for one in in_slot if one.phase is WorkerPhase.READY), in_slot[0])
        if name not in workers:
            raise InvalidRequestError(
                f"worker: there is no {name!r}; name one of {', '.join(sorted(workers)) or 'none: none runs'}", "worker"
            )
        return workers[name]

    def _check_now(self, worker: WorkerRecord) -> None:
        name = worker.worker_id
        if worker.phase is not WorkerPhase.READY:
            raise UnavailableError(f"worker {name} is {worker.phase}; change its role when it is ready")
        if name in self._changing:
            raise UnavailableError(f"worker {name} is becoming {self._changing[name]} already; try again then")

    def _check_rest(self, worker: WorkerRecord, wanted: Role) -> None:
        """Somebody must write answers; whoever does can read prompts too."""
        if wanted.decodes or not worker.role_now.decodes:
            return
        others = [other for other in self._workers() if other is not worker and other.phase is WorkerPhase.READY]
        if not any(self._changing.get(other.worker_id, other.role_now).decodes for other in others):
            raise InvalidRequestError(
                f"role: {worker.worker_id} is the last worker that writes answers; make it {Role.MIXED}, or first "
                f"another one {Role.DECODE}",
                "role",
            )


def kept_roles(roles: Mapping[str, Role], plan: FleetPlan) -> dict[str, Role]:
    """Of changed roles those that another config's plan leaves their workers; none where nobody would write answers."""
    slots = {f"{pool}-{index}" for pool, count in plan.desired.items() for index in range(count)}
    kept = {name: role for name, role in roles.items() if name in slots}
    counts = replace(plan, roles=kept).desired_by_role
    return kept if any(count for role, count in counts.items() if role.decodes) else {}
