"""The controller's row of one slot and side: its last worker, and the moves that are legal for it."""

import logging
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorDiedError

from baton.v1.worker_pb2 import WorkerState
from cluster.fleet.generation import Generation
from cluster.fleet.launch import Launched
from cluster.fleet.loading import NOT_LOADING, Loading
from cluster.fleet.plan import FleetPlan
from cluster.fleet.shell import WorkerFacts
from cluster.fleet.status import COUNTS, LISTS, RankStatus, WorkerStatus
from cluster.fleet.tick import FleetLimits, Observed, WorkerPhase, check_move, failures_after
from cluster.router.workers import WorkerEntry
from workers.engine.wire_roles import FROM_WIRE
from workers.spec import Role

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class WorkerRecord:
    """The last worker of one slot and side."""

    worker_id: str
    role: Role  # its pool's
    index: int
    incarnation: str
    num_failures: int
    entered_s: float
    heard_s: float
    beside: bool = False
    plan: FleetPlan | None = None  # that it is started by, where that is not the one which is wanted
    phase: WorkerPhase = WorkerPhase.WAITING
    started_as: Role | None = None  # None: as its pool
    launched: Launched | None = None  # None: nothing was asked of Ray yet
    ranks: tuple[RankStatus, ...] = ()
    num_gpus: float = 0.0  # of each rank, as its places were asked for: an equal share may be another one by then
    facts: WorkerFacts | None = None
    state: WorkerState | None = None
    one_of_nodes: bool = False  # there are several, so that an error names its own
    loading: Loading = NOT_LOADING
    refusal: str = ""  # why places that it was given could not be used; while it waits
    error: str = ""
    error_is_final: bool = False

    @property
    def generation(self) -> Generation:
        return Generation.in_name(self.incarnation)

    @property
    def cores(self) -> tuple[int, ...]:
        """Of all ranks."""
        return tuple(sorted({core for rank in self.ranks for core in rank.cores}))

    @property
    def role_now(self) -> Role:
        """As it said last; before, what it was started as."""
        started_as = self.started_as or self.role
        return started_as if self.state is None else FROM_WIRE.get(self.state.role, started_as)

    def take(self, rank: int, facts: WorkerFacts) -> None:
        """What a rank that is ready says of itself; of the leader, the worker."""
        if not rank:
            self.facts = facts
        said = RankStatus(node_id=facts.node_id, node=facts.node, pid=facts.pid, cores=facts.cores)
        self.ranks = (*self.ranks[:rank], said, *self.ranks[rank + 1 :])

    def observed(self) -> Observed:
        return Observed(
            worker_id=self.worker_id,
            role=self.role,
            index=self.index,
            phase=self.phase,
            entered_s=self.entered_s,
            heard_s=self.heard_s,
            since_progress_s=self.state.since_progress_s if self.state else 0.0,
            num_failures=self.num_failures,
            beside=self.beside,
            is_final=self.error_is_final,
        )

    def move(self, phase: WorkerPhase, now_s: float) -> None:
        check_move(self.phase, phase)
        logger.info(
            "worker worker_id=%s incarnation=%s from=%s to=%s error=%s",
            *(self.worker_id, self.incarnation, self.phase, phase, self.error),
        )
        self.phase = phase
        self.loading = NOT_LOADING
        self.entered_s = self.heard_s = now_s

    def end(self, phase: WorkerPhase, reason: str, limits: FleetLimits, now_s: float) -> None:
        """To STOPPED or FAILED."""
        ready_for_s = now_s - self.entered_s if self.phase is WorkerPhase.READY else 0.0
        self.num_failures = failures_after(phase, ready_for_s, self.num_failures, limits)
        self.error = reason
        self.move(phase, now_s)

    def entry(self) -> WorkerEntry | None:
        """Its row of the router's table; None while it does not serve."""
        if self.facts is None or self.phase not in (WorkerPhase.READY, WorkerPhase.DRAINING):
            return None
        return WorkerEntry(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            role=self.role_now,
            address=self.facts.address,
            draining=self.phase is WorkerPhase.DRAINING,
            model=self.generation.model,
            family=self.generation.family,
        )

    def status(self, now_s: float) -> WorkerStatus:
        told: dict[str, Any] = {}
        if self.state is not None:
            told = {name: getattr(self.state, name) for name in COUNTS}
            told |= {name: tuple(getattr(self.state, name)) for name in LISTS}
        return WorkerStatus(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            role=self.role_now.value,
            phase=self.phase,
            phase_s=now_s - self.entered_s,
            address=self.facts.address if self.facts else "",
            node_id=self.ranks[0].node_id if self.ranks else "",
            pid=self.facts.pid if self.facts else 0,
            cores=self.cores,
            ranks=self.ranks,
            error=self.error,
            error_is_final=self.error_is_final,
            num_failures=self.num_failures,
            loaded_bytes=self.loading.loaded_bytes,
            weights_bytes=self.loading.weights_bytes,
            load_bytes_per_s=self.loading.bytes_per_s,
            **told,
        )


def first_line(error: BaseException) -> str:
    if isinstance(error, ActorDiedError) and "unexpectedly" in str(error):
        return "its process ended by itself: killed, out of memory, or a crash that its log tells"
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
