"""The simulated controller: production's `fleet.tick` over the workers, and what faults do to them.

Ticks come while something is amiss: a worker is down, drains or is stalled. While all is well they would decide
nothing; so a step longer than `health.step_timeout_s` alone does not make a worker wedged here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cluster.contracts.simulation import SimCluster, SimPool
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.fleet.tick import (
    LIVE,
    Drain,
    FleetLimits,
    Observed,
    Replace,
    Start,
    Stop,
    WorkerPhase,
    check_move,
    failures_after,
    tick,
    worker_id,
)
from cluster.router.workers import WorkerEntry
from cluster.simulator.events import FAULT, FLEET, EventQueue
from cluster.simulator.ingress import SimIngress
from cluster.simulator.network import Network
from cluster.simulator.spans import Spans
from cluster.simulator.worker import SimWorker
from workers.engine.stats import since_progress_s
from workers.spec import Role

TICK_S = 0.25  # that of `cluster.fleet.controller`


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """A place in a pool, and its last worker."""

    pool: SimPool
    role: Role  # of its workers: the pool's, until it is changed
    name: str
    index: int  # in its pool
    number: int  # among all slots
    phase: WorkerPhase = WorkerPhase.STARTING
    entered_s: float = 0.0
    begun_s: float = 0.0  # when its place was taken
    incarnation: int = 0
    num_failures: int = 0
    away_until_s: float = 0.0  # no worker can start here before
    worker: SimWorker | None = None


class SimFleet:
    """Implements `faults.FaultyWorld`.

    Args:
        make_worker: Of a slot; it is alive at once.
        connect: Makes a worker's first report.
        spans: Where to note downtimes, if anywhere.
    """

    def __init__(
        self,
        *,
        cluster: SimCluster,
        queue: EventQueue,
        network: Network,
        ingress: SimIngress,
        make_worker: Callable[[Slot], SimWorker],
        connect: Callable[[SimWorker], None],
        spans: Spans | None,
    ) -> None:
        self.workers: dict[str, SimWorker] = {}  # alive
        self.dead: list[SimWorker] = []
        self._cluster = cluster
        self._queue = queue
        self._network = network
        self._ingress = ingress
        self._make_worker = make_worker
        self._connect = connect
        self._spans = spans
        self._desired = {pool.role: pool.num_workers for pool in cluster.pools}
        self._tuning = UNTUNED
        self._lived_s = 0.0  # of workers that are gone
        self.by_number: list[Slot] = []
        places = [(pool, index) for pool in cluster.pools for index in range(pool.num_workers)]
        self.slots = {
            (name := worker_id(pool.role, index)): Slot(
                pool=pool, role=pool.role, name=name, index=index, number=number
            )
            for number, (pool, index) in enumerate(places)
        }
        health = cluster.health
        self._limits = FleetLimits(
            start_timeout_s=health.start_timeout_s,
            step_timeout_s=health.step_timeout_s,
            silence_timeout_s=health.silence_timeout_s,
            drain_timeout_s=health.drain_timeout_s,
        )
        self.by_number += self.slots.values()
        self._stalled_until_s = 0.0
        self._is_ticking = False
        self._slow_links: dict[str, list[float]] = {}
        self._slow_starts: list[tuple[str, float, float]] = []  # worker id (empty: any), factor, until
        for slot in self.slots.values():
            self._bring_up(slot)
        self._publish()
        for worker in self.workers.values():
            connect(worker)

    # What the fleet does.

    def _tick(self, _: None) -> None:
        self._is_ticking = False
        now_s = self._queue.now_s
        for slot in self.slots.values():
            if slot.phase is WorkerPhase.DRAINING and slot.worker is not None and slot.worker.is_idle:
                self._end(slot, WorkerPhase.STOPPED, "")
        observed = [self._observe(slot) for slot in self.slots.values()]
        for action in tick(self._desired, observed, self._limits, now_s):
            match action:
                case Start(role, index, num_failures):
                    self._start(self.slots[worker_id(role, index)], num_failures)
                case Drain(name):
                    self._drain(self.slots[name])
                case Stop(name):
                    self._end(self.slots[name], WorkerPhase.STOPPED, "drained for too long")
                case Replace(name, reason):
                    self._end(self.slots[name], WorkerPhase.FAILED, reason)
        self._watch()

    def _watch(self) -> None:
        """Ticks until all is well again."""
        if self._is_ticking or (self.is_whole and self._queue.now_s > self._stalled_until_s):
            return
        self._is_ticking = True
        self._queue.push(self._queue.now_s + TICK_S, FLEET, 0, self._tick, keeps_running=False)

    @property
    def is_whole(self) -> bool:
        """All that are wanted serve, and nobody else is left."""
        return all(
            slot.phase is (WorkerPhase.READY if self._is_wanted(slot) else WorkerPhase.STOPPED)
            for slot in self.slots.values()
        )

    @property
    def roles(self) -> Mapping[str, Role]:
        """By worker id; of those that are wanted."""
        return {slot.name: slot.role for slot in self.slots.values() if self._is_wanted(slot)}

    @property
    def worker_s(self) -> float:
        """That workers have had their places, starts and drains included."""
        live = [slot for slot in self.slots.values() if slot.phase in LIVE]
        return self._lived_s + sum(self._queue.now_s - slot.begun_s for slot in live)

    def set_count(self, role: Role, count: int) -> None:
        """Workers of the pool of `role`; more are started, those too many drained."""
        pool = next(pool for pool in self._cluster.pools if pool.role is role)
        self._desired[role] = count
        for index in range(count):
            name = worker_id(role, index)
            if name not in self.slots:
                slot = Slot(
                    pool=pool, role=role, name=name, index=index, number=len(self.by_number), phase=WorkerPhase.STOPPED
                )
                self.slots[name] = slot
                self.by_number.append(slot)
        self._watch()

    def tune(self, tuning: Tuning) -> None:
        """Limits of all workers, of those that start later too."""
        self._tuning = tuning
        for worker in self.workers.values():
            worker.engine.tune(tuning)

    def _is_wanted(self, slot: Slot) -> bool:
        return slot.index < self._desired.get(slot.pool.role, 0)

    def _observe(self, slot: Slot) -> Observed:
        now_s, worker = self._queue.now_s, slot.worker
        if worker is not None:
            worker.sync()
        return Observed(
            worker_id=slot.name,
            role=slot.pool.role,
            index=slot.index,
            phase=slot.phase,
            entered_s=slot.entered_s,
            heard_s=now_s,
            since_progress_s=since_progress_s(worker.stats.waiting_since_s, now_s) if worker is not None else 0.0,
            num_failures=slot.num_failures,
        )

    def _start(self, slot: Slot, num_failures: int) -> None:
        now_s = self._queue.now_s
        slot.incarnation += 1
        slot.num_failures = num_failures
        if self._spans is not None:
            self._spans.downtime(slot.name, "down", slot.entered_s, now_s)
        slot.phase, slot.entered_s, slot.begun_s = WorkerPhase.STARTING, now_s, now_s
        factors = [factor for name, factor, until_s in self._slow_starts if name in ("", slot.name) and now_s < until_s]
        ready_s = max(now_s, slot.away_until_s) + self._cluster.start_s * max(factors, default=1.0)
        self._queue.push(ready_s, FLEET, slot.number, self._is_up, (slot, slot.incarnation), keeps_running=False)

    def _is_up(self, start: tuple[Slot, int]) -> None:
        slot, incarnation = start
        if slot.phase is WorkerPhase.STARTING and slot.incarnation == incarnation:
            worker = self._bring_up(slot)
            self._publish()
            self._connect(worker)

    def _bring_up(self, slot: Slot) -> SimWorker:
        self._move(slot, WorkerPhase.READY)
        slot.worker = self.workers[slot.name] = self._make_worker(slot)
        slot.worker.engine.tune(self._tuning)
        return slot.worker

    def _drain(self, slot: Slot) -> None:
        self._move(slot, WorkerPhase.DRAINING)
        assert slot.worker is not None
        slot.worker.engine.drain()
        self._publish()
        self._watch()

    def _end(self, slot: Slot, phase: WorkerPhase, reason: str) -> None:
        """The worker's process ends by the fleet's will: it and the ingress know at once."""
        worker = slot.worker
        if worker is not None:
            self._kill(slot, worker)
        self._book_end(slot, phase)
        if worker is not None:
            self._tell_of_end(worker, reason)

    def _kill(self, slot: Slot, worker: SimWorker) -> None:
        worker.kill()
        slot.worker = None
        del self.workers[slot.name]
        self.dead.append(worker)

    def _book_end(self, slot: Slot, phase: WorkerPhase) -> None:
        ready_for_s = self._queue.now_s - slot.entered_s if slot.phase is WorkerPhase.READY else 0.0
        slot.num_failures = failures_after(phase, ready_for_s, slot.num_failures, self._limits)
        self._lived_s += self._queue.now_s - slot.begun_s
        self._move(slot, phase)

    def _tell_of_end(self, worker: SimWorker, reason: str) -> None:
        """Links to it break, and its requests start anew; then the slot is filled again."""
        self._network.break_links(worker.key)
        self._publish()
        self._ingress.lose_worker(worker.key, reason, died_s=worker.died_s)
        self._watch()

    def _move(self, slot: Slot, phase: WorkerPhase) -> None:
        check_move(slot.phase, phase)
        if self._spans is not None and slot.phase is WorkerPhase.STARTING:
            self._spans.downtime(slot.name, "starting", slot.entered_s, self._queue.now_s)
        slot.phase, slot.entered_s = phase, self._queue.now_s

    def _publish(self) -> None:
        """The table that the ingress routes by: workers whose end is not known yet are in it."""
        self._ingress.set_workers(
            [
                WorkerEntry(
                    worker_id=slot.name,
                    incarnation=str(slot.incarnation),
                    role=slot.role,
                    address="",
                    draining=slot.phase is WorkerPhase.DRAINING,
                )
                for slot in self.slots.values()
                if slot.phase in (WorkerPhase.READY, WorkerPhase.DRAINING)
            ]
        )

    # What faults do.

    def live_workers(self, roles: Collection[Role]) -> Sequence[str]:
        return [name for name, worker in self.workers.items() if worker.role in roles]

    def kill(self, worker_id: str, *, away_s: float) -> None:
        slot, now_s = self.slots[worker_id], self._queue.now_s
        slot.away_until_s = max(slot.away_until_s, now_s + away_s)
        worker = slot.worker
        if worker is None:
            return
        self._kill(slot, worker)
        if self._cluster.detect_s:
            self._queue.push(now_s + self._cluster.detect_s, FLEET, slot.number, self._notice, (slot, worker))
        else:
            self._notice((slot, worker))

    def _notice(self, death: tuple[Slot, SimWorker]) -> None:
        """The death is known; nobody else can have filled the slot meanwhile, but a drain may have been given up."""
        slot, worker = death
        if slot.phase in LIVE and str(slot.incarnation) == worker.key.incarnation:
            self._book_end(slot, WorkerPhase.FAILED)
        self._tell_of_end(worker, "its process ended by itself")

    def restart(self, worker_id: str) -> None:
        slot = self.slots[worker_id]
        if slot.worker is not None and slot.phase is WorkerPhase.READY:
            self._drain(slot)

    def set_role(self, worker_id: str, role: Role) -> bool:
        """As the controller does it: False, and nothing changes, where it would refuse."""
        slot = self.slots[worker_id]
        others = [other for other in self.slots.values() if other is not slot and other.phase is WorkerPhase.READY]
        if slot.worker is None or slot.phase is not WorkerPhase.READY:
            return False
        if not (role.decodes or any(other.role.decodes for other in others)):
            return False
        slot.role = role
        slot.worker.engine.set_role(role)
        self._publish()
        return True

    def slow_link(self, worker_id: str, *, factor: float, duration_s: float) -> None:
        self._slow_links.setdefault(worker_id, []).append(1.0 / factor)
        self._book_links(worker_id)
        at_s = self._queue.now_s + duration_s
        self._queue.push(at_s, FAULT, 0, self._mend_link, (worker_id, 1.0 / factor), keeps_running=False)

    def _mend_link(self, fault: tuple[str, float]) -> None:
        worker_id, slowdown = fault
        self._slow_links[worker_id].remove(slowdown)
        self._book_links(worker_id)

    def _book_links(self, worker_id: str) -> None:
        slowdowns = self._slow_links[worker_id]
        if slowdowns:
            self._network.slowdown[worker_id] = max(slowdowns)
        else:
            self._network.slowdown.pop(worker_id, None)

    def lose_ack(self, worker_id: str) -> None:
        self._network.acks_to_lose[worker_id] += 1

    def stall(self, worker_id: str, *, duration_s: float) -> None:
        worker = self.slots[worker_id].worker
        if worker is not None:
            worker.stall(duration_s)
            self._stalled_until_s = max(self._stalled_until_s, self._queue.now_s + duration_s)
            self._watch()

    def slow_start(self, worker_id: str, *, factor: float, duration_s: float) -> None:
        self._slow_starts.append((worker_id, factor, self._queue.now_s + duration_s))
