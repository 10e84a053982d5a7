"""`simulate`: a cluster, its requests and its faults under a virtual clock.

Owns the ingress and the fleet, and passes messages between ingress and workers. Decisions are production's: see
`worker`, `ingress`, `outbox`, `inbox` and `fleet` for which of its classes they drive, and what they leave out.
"""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from baton.errors import ConfigError
from baton.v1.worker_pb2 import Abort, Submit, TokenOutput
from cluster.contracts.simulation import Arrival, Fault, RequestRecord, SimCluster, SimPilot, SimResult
from cluster.router.workers import WorkerKey
from cluster.simulator.events import ARRIVAL, FAULT, FLEET, MESSAGE, REPORT, STEP_END, EventQueue
from cluster.simulator.faults import check_targets, inject
from cluster.simulator.fleet import SimFleet, Slot
from cluster.simulator.ingress import SimIngress
from cluster.simulator.invariants import Invariants
from cluster.simulator.machine import machines
from cluster.simulator.network import Network
from cluster.simulator.spans import Spans
from cluster.simulator.steering import Steering
from cluster.simulator.worker import SimWorker
from workers.spec import Role

JUMP = 1 << 62  # as many steps at once as there are
_OWN_HASHES = 1 << 63  # names of blocks that a request shares with nobody begin here


class World:
    def __init__(
        self,
        cluster: SimCluster,
        arrivals: Sequence[Arrival],
        *,
        seed: int,
        faults: Sequence[Fault],
        check_every: int | None,
        spans: bool,
        max_jump: int,
        pilot: SimPilot | None = None,
    ) -> None:
        self.cluster = cluster
        self.queue = EventQueue()
        self.network = Network(queue=self.queue, transfer=cluster.transfer, kv=cluster.kv)
        self.records: list[RequestRecord] = []
        self.invariants = Invariants(
            router=cluster.router, kv=cluster.kv, num_requests=len(arrivals), check_every=check_every
        )
        self.ingress = SimIngress(
            cluster=cluster,
            queue=self.queue,
            rng=Random(seed),
            submit=self._submit,
            abort=self._abort,
            flush=self._flush,
            answers=self.invariants.answers,
        )
        self._arrivals = arrivals
        self._spans = Spans() if spans else None
        self._max_jump = max_jump
        self._num_slots = sum(pool.num_workers for pool in cluster.pools)
        self._machines = machines(cluster.contention, self._num_slots)
        self.fleet = SimFleet(
            cluster=cluster,
            queue=self.queue,
            network=self.network,
            ingress=self.ingress,
            make_worker=self._make_worker,
            connect=self._connect,
            spans=self._spans,
        )
        self._slots = self.fleet.by_number
        self._pilot = pilot
        self._steering = Steering(
            cluster=cluster,
            queue=self.queue,
            fleet=self.fleet,
            ingress=self.ingress,
            invariants=self.invariants,
            records=self.records,
        )
        self._fault_rng = Random(f"faults {seed}")
        self._expect_faults(faults)

    @property
    def workers(self) -> dict[str, SimWorker]:
        """By worker id; those alive."""
        return self.fleet.workers

    def run(self) -> None:
        self._expect_arrival()
        if self._pilot is not None:
            self._expect_look(self._pilot)
        queue, invariants, admission = self.queue, self.invariants, self.ingress.admission
        while queue.num_pending or self.ingress.num_open:
            if not queue.run_next():
                break
            invariants.after_event(self._touched(), self.workers.values, admission)
        invariants.check_end(self.workers.values(), admission)

    def _expect_look(self, pilot: SimPilot) -> None:
        at_s = self.queue.now_s + pilot.interval_s
        self.queue.push(at_s, FLEET, 0, self._look, pilot, keeps_running=False)

    def _look(self, pilot: SimPilot) -> None:
        pilot.look(self._steering)
        self._expect_look(pilot)

    def _touched(self) -> Sequence[SimWorker]:
        """The worker whose blocks the last event may have changed."""
        if self.queue.kind not in (STEP_END, REPORT):
            return ()
        worker = self._slots[self.queue.subject].worker
        return (worker,) if worker is not None else ()

    def result(self) -> SimResult:
        busy_s, peak_blocks = dict.fromkeys(self.fleet.slots, 0.0), dict.fromkeys(self.fleet.slots, 0)
        workers = [*self.fleet.dead, *self.workers.values()]
        for worker in workers:
            name = worker.key.worker_id
            busy_s[name] += worker.occupancy.busy_s
            peak_blocks[name] = max(peak_blocks[name], worker.occupancy.peak_blocks)
        return SimResult(
            records=self.records,
            end_s=self.queue.now_s,
            num_events=self.queue.num_events,
            trace_hash=self.queue.trace_hash(),
            busy_s=busy_s,
            peak_blocks=peak_blocks,
            bytes_sent=self.network.bytes_sent,
            num_preemptions=sum(worker.stats.num_preemptions for worker in workers),
            spans=self._spans.spans if self._spans is not None else [],
            worker_s=self.fleet.worker_s,
        )

    def _expect_faults(self, faults: Sequence[Fault]) -> None:
        check_targets(faults, {slot.name: slot.pool.role for slot in self._slots})
        for fault in faults:
            self.queue.push(fault.at_s, FAULT, 0, self._inject, fault, keeps_running=False)

    def _inject(self, fault: Fault) -> None:
        inject(self.fleet, fault, self._fault_rng)

    # Arrivals.

    def _expect_arrival(self) -> None:
        index = len(self.records)
        if index < len(self._arrivals):
            arrival = self._arrivals[index]
            _check_arrival(index, arrival, self.queue.now_s, self.cluster.engine.block_size)
            self.queue.push(arrival.at_s, ARRIVAL, index, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        record = RequestRecord(
            index=len(self.records),
            arrived_s=self.queue.now_s,
            num_prompt_tokens=arrival.num_prompt_tokens,
            num_output_tokens=arrival.num_output_tokens,
        )
        self.records.append(record)
        self._expect_arrival()
        if self._spans is not None:
            self._spans.arrived(str(record.index), self.queue.now_s)
        self.ingress.arrive(record, arrival, self._block_hashes(record.index, arrival))

    def _block_hashes(self, index: int, arrival: Arrival) -> list[int]:
        if not self.cluster.engine.prefix_cache:
            return []
        num_blocks = (arrival.num_prompt_tokens + arrival.num_output_tokens) // self.cluster.engine.block_size
        first = _OWN_HASHES + (index << 24)
        return [*arrival.block_hashes, *range(first + len(arrival.block_hashes), first + num_blocks)]

    # Between ingress and workers.

    def _make_worker(self, slot: Slot) -> SimWorker:
        return SimWorker(
            key=WorkerKey(slot.name, str(slot.incarnation)),
            index=slot.number,
            pool=slot.pool,
            role=slot.role,
            cluster=self.cluster,
            queue=self.queue,
            network=self.network,
            request=self.ingress.request,
            tell=self._tell_ingress,
            report_soon=self._report_soon,
            report_now=self._connect,
            machine=self._machines[slot.number] if slot.number < len(self._machines) else None,
            spans=self._spans,
            max_jump=self._max_jump,
        )

    def _connect(self, worker: SimWorker) -> None:
        self.ingress.report(worker.key, worker.report())

    def _submit(self, key: WorkerKey, submit: Submit) -> None:
        """Lost if the worker is dead and nobody knows it yet."""
        worker = self.workers.get(key.worker_id)
        if worker is not None and worker.key == key:
            self._later(worker.index, worker.engine.submit, submit)

    def _abort(self, key: WorkerKey, abort: Abort) -> None:
        worker = self.workers.get(key.worker_id)
        if worker is not None and worker.key == key:
            self._later(worker.index, worker.engine.abort, abort)

    def _tell_ingress(self, key: WorkerKey, outputs: list[TokenOutput]) -> None:
        self._later(self.workers[key.worker_id].index, self.ingress.take_outputs, (key, outputs))

    def _later(self, subject: int, handle: Callable[[Any], None], argument: Any) -> None:
        if self.cluster.ingress_s == 0.0:
            handle(argument)
        else:
            self.queue.push(self.queue.now_s + self.cluster.ingress_s, MESSAGE, subject, handle, argument)

    def _flush(self, key: WorkerKey, request_id: str) -> TokenOutput | None:
        worker = self.workers.get(key.worker_id)
        return worker.flush(request_id) if worker is not None and worker.key == key else None

    # Load reports: every interval, each worker at its own moment; an idle one has nothing to add.

    def _report_soon(self, worker: SimWorker) -> None:
        worker.is_reporting = True
        interval_s = self.cluster.report_interval_s
        first_s = interval_s * worker.index / self._num_slots
        at_s = first_s + interval_s * (math.floor((self.queue.now_s - first_s) / interval_s) + 1)
        at_s = at_s if at_s > self.queue.now_s else at_s + interval_s
        self.queue.push(at_s, REPORT, worker.index, self._report, worker, keeps_running=False)

    def _report(self, worker: SimWorker) -> None:
        worker.is_reporting = False
        if not worker.is_alive:
            return
        self.ingress.report(worker.key, worker.report())
        if not worker.is_idle:
            self._report_soon(worker)


def simulate(
    cluster: SimCluster,
    arrivals: Sequence[Arrival],
    *,
    seed: int = 0,
    faults: Sequence[Fault] = (),
    check_every: int | None = None,
    spans: bool = False,
    max_jump: int = JUMP,
    pilot: SimPilot | None = None,
) -> SimResult:
    """Runs a workload to its end.

    Args:
        seed: Of ties between equal workers, and of faults by lot.
        check_every: Full integrity every so many events; None: at the end alone. Counters are checked always.
        spans: Whether to note what every worker and request did when.
        max_jump: For tests: decode steps taken at once; the records are the same for any.
        pilot: Looks at the fleet now and then, and may change it.
    Raises:
        ConfigError: an arrival, a pool or a fault that cannot be.
    """
    _check_cluster(cluster)
    world = World(
        cluster,
        arrivals,
        seed=seed,
        faults=faults,
        check_every=check_every,
        spans=spans,
        max_jump=max_jump,
        pilot=pilot,
    )
    world.run()
    return world.result()


def _check_cluster(cluster: SimCluster) -> None:
    roles = [pool.role for pool in cluster.pools if pool.num_workers]
    twice = [role for role in roles if roles.count(role) > 1]
    if twice:
        raise ConfigError(f"pools: two of role {twice[0]}; give one per role")
    if not {Role.DECODE, Role.MIXED} & set(roles):
        raise ConfigError("pools: no worker can decode; give a decode or a mixed pool")
    for pool in cluster.pools:
        if pool.num_blocks < 1:
            raise ConfigError(f"pools: {pool.role}: num_blocks {pool.num_blocks}; give at least 1")
    if not cluster.report_interval_s > 0.0:
        raise ConfigError(f"report_interval_s: {cluster.report_interval_s:g}; give a number above 0")
    for name in ("ingress_s", "handover_s", "receive_s", "start_s", "detect_s"):
        value = getattr(cluster, name)
        if not 0.0 <= value < math.inf:
            raise ConfigError(f"{name}: {value:g}; give a number of 0 or more")


def _check_arrival(index: int, arrival: Arrival, now_s: float, block_size: int) -> None:
    if not arrival.at_s >= now_s:
        raise ConfigError(f"arrivals[{index}].at_s: {arrival.at_s}, after one at {now_s}; sort them by time")
    for name in ("num_prompt_tokens", "num_output_tokens"):
        value = getattr(arrival, name)
        if value < 1:
            raise ConfigError(f"arrivals[{index}].{name}: {value}; give at least 1")
    num_full = arrival.num_prompt_tokens // block_size
    if len(arrival.block_hashes) > num_full:
        raise ConfigError(
            f"arrivals[{index}].block_hashes: {len(arrival.block_hashes)}, but the prompt fills {num_full} blocks of "
            f"{block_size} tokens; give one per full block"
        )
