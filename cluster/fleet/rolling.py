"""Carries a change of what is wanted through the fleet: knows which workers are outdated, says how far it is, halts it
where what is new does not come up. What replaces what is `cluster.fleet.rollout`'s to decide, carried out by the crew.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from cluster.contracts.events import EventKind, TellEvent
from cluster.fleet import change, rollout
from cluster.fleet.change import Change
from cluster.fleet.crew import Crew
from cluster.fleet.generation import Generation, model_key
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.rollout import ROOM_S, Rollout
from cluster.fleet.seating import Seating
from cluster.fleet.status import RolloutStatus
from cluster.fleet.tick import LIVE, Action, FleetLimits, Observed, Start, WorkerPhase
from workers.spec import Role

logger = logging.getLogger(__name__)


class Rolling:
    """For one event loop.

    Args:
        key: Of what is kept in Ray's key-value store.
        plan: What is wanted now.
        tell: Of an event.
        is_asked_for: Whether every ingress replica looks for workers of a model.
    """

    def __init__(
        self,
        *,
        key: str,
        plan: Callable[[], FleetPlan],
        crew: Crew,
        seating: Seating,
        tell: TellEvent,
        is_asked_for: Callable[[str], bool],
    ) -> None:
        self._key = key
        self._plan = plan
        self._crew = crew
        self._seating = seating
        self._tell = tell
        self._is_asked_for = is_asked_for
        self._change = change.load_saved(key)
        self._ready_before: Mapping[Role, int] = {}
        self._generations: tuple[FleetPlan, dict[tuple[Role, int], Generation]] | None = None
        self._num_told = -1  # replaced, when it was said last

    def begin(self, before: FleetPlan, why: str) -> None:
        """What is wanted has changed from `before`; whatever is outdated by that is replaced from now on."""
        self._crew.forget_failures()
        going_on, self._change = self._change, None
        live = self._crew.live
        if not any(self._is_outdated(worker) for worker in live):
            change.save(self._key, None)
            return
        before = going_on.before if going_on is not None else before
        serves_other = any(worker.generation.model != model_key(self._plan()) for worker in live)
        self._take(Change(before=before, why=why, holds_old=serves_other))
        self._ready_before = Counter(worker.role for worker in live if worker.phase is WorkerPhase.READY)
        self._num_told = -1
        logger.info("rollout begins why=%s holds_old=%s", why, serves_other)

    def forget(self) -> None:
        self._change = None
        change.save(self._key, None)

    def switched(self) -> None:
        """Whoever asks for the model has turned to the new one: the old workers may go."""
        if self._change is not None and self._change.holds_old:
            self._take(replace(self._change, holds_old=False))
            self._tell(EventKind.ROLLOUT, "ingress", "asks workers of the new model from now on")

    def decide(self, desired: Mapping[Role, int], limits: FleetLimits, now_s: float) -> list[Action]:
        """Raises nothing; what the crew has to do now."""
        observed = self.observed(now_s)
        if self._change is not None:
            self._look(self._change, desired, observed, now_s)
        current = self._change
        state = Rollout(
            is_halted=current is not None and bool(current.halted),
            holds_old=current is not None and current.holds_old,
            ready_before=self._ready_before,
        )
        return rollout.decide(desired, observed, limits, now_s, state)

    def start(self, start: Start) -> None:
        """With what is wanted, or after a halt with what was before."""
        plan = self._before(start)
        generation = self._generation(start.role, start.index)
        if plan is not None:
            generation = Generation.of(plan, start.role, start.index)
        self._crew.start(start, generation, self._seating, plan=plan)

    def observed(self, now_s: float) -> list[Observed]:
        return [
            replace(
                worker.observed(),
                outdated=worker.phase in LIVE and self._is_outdated(worker),
                may_displace=self._may_displace(worker, now_s),
            )
            for worker in self._crew.workers.values()
        ]

    def status(self, desired: Mapping[Role, int], now_s: float) -> RolloutStatus | None:
        """None: nothing is being replaced."""
        if self._change is None:
            return None
        observed = self.observed(now_s)
        is_there = rollout.is_all_new(desired, observed, now_s) and self._is_asked_for(model_key(self._plan()))
        return RolloutStatus(
            why=self._change.why,
            num_replaced=rollout.num_replaced(desired, observed),
            num_wanted=sum(desired.values()),
            halted=self._change.halted,
            holds_old=self._change.holds_old,
            may_switch=self._change.holds_old and is_there,
        )

    def serves_wanted_model(self, worker: WorkerRecord) -> bool:
        return worker.generation.model == model_key(self._plan())

    def _look(self, current: Change, desired: Mapping[Role, int], observed: list[Observed], now_s: float) -> None:
        """Says how far it is; halts or ends it."""
        num_replaced, num_wanted = rollout.num_replaced(desired, observed), sum(desired.values())
        failed = None if current.halted else rollout.failed(observed)
        if failed is not None:
            why = f"{failed.worker_id} does not come up: {self._crew.workers[failed.worker_id].error}"
            self._take(replace(current, halted=why))
            self._tell(EventKind.ROLLOUT, failed.worker_id, f"{current.why} is halted, {why}", is_trouble=True)
            logger.error("rollout halted why=%s", why)
        elif rollout.is_finished(desired, observed, now_s):
            self.forget()
            self._crew.forget_failures()
            self._tell(EventKind.ROLLOUT, "workers", f"{current.why} is done, all workers are as wanted")
            logger.info("rollout ended why=%s", current.why)
        elif num_replaced != self._num_told:
            self._num_told = num_replaced
            self._tell(EventKind.ROLLOUT, "workers", f"{current.why}: {num_replaced} of {num_wanted} are as wanted")

    def _take(self, new: Change) -> None:
        change.save(self._key, new)
        self._change = new

    def _before(self, start: Start) -> FleetPlan | None:
        if self._change is None or not self._change.halted:
            return None
        before = self._change.before
        has_slot = start.index < before.desired[start.role]
        return replace(before, adapters=self._plan().adapters) if has_slot else None

    def _is_outdated(self, worker: WorkerRecord) -> bool:
        drained = self._plan().drained
        if any(rank.node_id in drained for rank in worker.ranks):
            return True
        return worker.generation.build != self._generation(worker.role, worker.index).build

    def _generation(self, role: Role, index: int) -> Generation:
        """Of the wanted one; hashed once."""
        plan = self._plan()
        if self._generations is None or self._generations[0] is not plan:
            self._generations = (plan, {})
        known = self._generations[1]
        if (role, index) not in known:
            known[role, index] = Generation.of(plan, role, index)
        return known[role, index]

    def _may_displace(self, worker: WorkerRecord, now_s: float) -> bool:
        if worker.phase is not WorkerPhase.WAITING or now_s < worker.entered_s + ROOM_S:
            return False
        desired = self._plan().desired
        going = [one for one in self._crew.live if self._goes(one, worker) or not desired.get(one.role)]
        return bool(going) and self._seating.fits_without(worker, going)

    def _goes(self, old: WorkerRecord, successor: WorkerRecord) -> bool:
        same = (old.role, old.index) == (successor.role, successor.index)
        return same and old is not successor and self._is_outdated(old)
