"""Decides what the fleet does next: desired counts and observed workers in, actions out. No I/O, no clock.

A slot is a place in a pool, named by its worker id ("decode-0"); a worker is one incarnation that fills it. While one
that still serves is replaced, its successor stands beside it ("decode-0b"): `rollout` says which, and when.
Invariant: at most one live worker per slot and side; an empty slot is started again when its last workers are gone.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from workers.spec import SERVING_ROLES, Role


class WorkerPhase(enum.StrEnum):
    WAITING = "waiting"  # for its places on nodes, as long as it takes
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # finishes what runs, takes nothing new
    STOPPED = "stopped"  # gone as wanted
    FAILED = "failed"  # gone against our will: died, wedged, or never came up


LEGAL_MOVES: Mapping[WorkerPhase, frozenset[WorkerPhase]] = {
    WorkerPhase.WAITING: frozenset({WorkerPhase.STARTING, WorkerPhase.STOPPED, WorkerPhase.FAILED}),
    WorkerPhase.STARTING: frozenset({WorkerPhase.READY, WorkerPhase.STOPPED, WorkerPhase.FAILED}),
    WorkerPhase.READY: frozenset({WorkerPhase.DRAINING, WorkerPhase.STOPPED, WorkerPhase.FAILED}),
    WorkerPhase.DRAINING: frozenset({WorkerPhase.STOPPED, WorkerPhase.FAILED}),
    WorkerPhase.STOPPED: frozenset(),
    WorkerPhase.FAILED: frozenset(),
}
BESIDE = "b"  # ends the id of a worker that took over from one which still served
LIVE = frozenset({WorkerPhase.WAITING, WorkerPhase.STARTING, WorkerPhase.READY, WorkerPhase.DRAINING})


def check_move(old: WorkerPhase, new: WorkerPhase) -> None:
    assert new in LEGAL_MOVES[old], f"a worker cannot go from {old} to {new}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimits:
    start_timeout_s: float
    step_timeout_s: float  # work pending and no step finished for so long: wedged
    silence_timeout_s: float  # no sign of life for so long: its process hangs, or its host is cut off
    drain_timeout_s: float = 30.0
    backoff_s: float = 0.5  # after the second failure in a row; doubles with each further one
    max_backoff_s: float = 30.0
    max_draft_backoff_s: float = 300.0  # of workers that take no requests: their starts take time from those that do
    steady_s: float = 60.0  # a worker that was ready for so long clears its slot's failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The last worker of one slot and side.

    Attributes:
        entered_s: When it entered its phase.
        heard_s: Its last answer.
        since_progress_s: As it reported.
        num_failures: Of the slot and side, in a row, this worker's own included.
        outdated: Started with something else than is wanted now, or on a node that is to be empty.
        is_final: Its error is one that another start cannot help.
        may_displace: It has waited for its places, and would have some if those that are to go were gone.
    """

    worker_id: str
    role: Role
    index: int  # of the slot in its pool
    phase: WorkerPhase
    entered_s: float
    heard_s: float
    since_progress_s: float = 0.0
    num_failures: int = 0
    beside: bool = False
    outdated: bool = False
    is_final: bool = False
    may_displace: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    role: Role
    index: int
    num_failures: int  # of the slot so far
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    worker_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Wanted: its slot is no longer desired, and nothing runs or the drain's time is over."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Kill it; a later tick starts another."""

    worker_id: str
    reason: str


Action = Start | Drain | Stop | Replace


def worker_id(role: Role, index: int, beside: bool = False) -> str:
    return f"{role}-{index}{BESIDE if beside else ''}"


def slot_of(name: str) -> str:
    """Of a worker's id, however its model and side are told: "v2.decode-0" has slot decode-0."""
    return name.rpartition(".")[2].removesuffix(BESIDE)


def backoff_s(role: Role, num_failures: int, limits: FleetLimits) -> float:
    """Wait before a slot's next start: none after one failure, then doubling up to its role's limit."""
    if num_failures <= 1:
        return 0.0
    most_s = limits.max_backoff_s if role in SERVING_ROLES else limits.max_draft_backoff_s
    return min(limits.backoff_s * 2.0 ** min(num_failures - 2, 64), most_s)


def tick(desired: Mapping[Role, int], observed: Iterable[Observed], limits: FleetLimits, now_s: float) -> list[Action]:
    """What to do now.

    Args:
        desired: Workers per role; a role that is absent has none.
        observed: The last worker of each slot and side that ever had one.
    """
    by_id = {worker.worker_id: worker for worker in observed}
    actions: list[Action] = []
    for role in Role:
        for index in range(desired.get(role, 0)):
            sides = (by_id.get(worker_id(role, index)), by_id.get(worker_id(role, index, True)))
            workers = [worker for worker in sides if worker is not None]
            if any(worker.phase in LIVE for worker in workers):
                continue
            last = max(workers, key=lambda worker: worker.entered_s, default=None)
            if last is None:
                actions.append(Start(role, index, 0))
            elif may_start(last, limits, now_s):
                actions.append(Start(role, index, last.num_failures))
    for worker in by_id.values():
        wanted = worker.index < desired.get(worker.role, 0)
        action = _of_live(worker, wanted, limits, now_s)
        if action is not None:
            actions.append(action)
    return actions


def may_start(ended: Observed, limits: FleetLimits, now_s: float) -> bool:
    """Whether the wait after a worker's end is over."""
    return now_s >= ended.entered_s + backoff_s(ended.role, ended.num_failures, limits)


def _of_live(worker: Observed, wanted: bool, limits: FleetLimits, now_s: float) -> Action | None:
    in_phase_s = now_s - worker.entered_s
    match worker.phase:
        case WorkerPhase.WAITING:
            return None if wanted else Stop(worker.worker_id)
        case WorkerPhase.STARTING:
            if not wanted:
                return Stop(worker.worker_id)
            if in_phase_s > limits.start_timeout_s:
                return Replace(worker.worker_id, f"not ready after {limits.start_timeout_s:g} s")
        case WorkerPhase.READY | WorkerPhase.DRAINING:
            if worker.phase is WorkerPhase.DRAINING and in_phase_s > limits.drain_timeout_s:
                return Stop(worker.worker_id)
            if worker.since_progress_s > limits.step_timeout_s:
                return Replace(worker.worker_id, f"no step finished for {worker.since_progress_s:.1f} s")
            if now_s - worker.heard_s > limits.silence_timeout_s:
                return Replace(worker.worker_id, f"no sign of life for {now_s - worker.heard_s:.1f} s")
            if not wanted and worker.phase is WorkerPhase.READY:
                return Drain(worker.worker_id)
        case WorkerPhase.STOPPED | WorkerPhase.FAILED:
            pass
    return None


def failures_after(phase: WorkerPhase, ready_for_s: float, num_failures: int, limits: FleetLimits) -> int:
    """A slot's count of failures in a row once its worker has ended in `phase` after `ready_for_s` of service."""
    if phase is WorkerPhase.STOPPED:
        return 0
    return 1 if ready_for_s >= limits.steady_s else num_failures + 1
