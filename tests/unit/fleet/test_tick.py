import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.tick import (
    LEGAL_MOVES,
    LIVE,
    Drain,
    FleetLimits,
    Observed,
    Replace,
    Start,
    Stop,
    WorkerPhase,
    backoff_s,
    check_move,
    failures_after,
    tick,
    worker_id,
)
from workers.spec import Role

LIMITS = FleetLimits(start_timeout_s=60, step_timeout_s=10, silence_timeout_s=10, drain_timeout_s=5)
ONE_EACH = {Role.PREFILL: 1, Role.DECODE: 1}


def worker(
    role: Role = Role.DECODE,
    index: int = 0,
    phase: WorkerPhase = WorkerPhase.READY,
    entered_s: float = 0.0,
    heard_s: float = 100.0,
    since_progress_s: float = 0.0,
    num_failures: int = 0,
) -> Observed:
    return Observed(
        worker_id=worker_id(role, index),
        role=role,
        index=index,
        phase=phase,
        entered_s=entered_s,
        heard_s=heard_s,
        since_progress_s=since_progress_s,
        num_failures=num_failures,
    )


def test_an_empty_fleet_starts_every_slot_at_once() -> None:
    assert tick(ONE_EACH, [], LIMITS, 0.0) == [Start(Role.PREFILL, 0, 0), Start(Role.DECODE, 0, 0)]


def test_a_fleet_as_desired_is_left_alone() -> None:
    assert tick(ONE_EACH, [worker(Role.PREFILL), worker(Role.DECODE)], LIMITS, 100.0) == []


def test_one_worker_less_drains_the_highest_slot() -> None:
    assert tick({Role.DECODE: 1}, [worker(index=0), worker(index=1)], LIMITS, 100.0) == [Drain("decode-1")]


def test_a_worker_still_starting_that_is_not_wanted_is_stopped() -> None:
    assert tick({}, [worker(phase=WorkerPhase.STARTING)], LIMITS, 1.0) == [Stop("decode-0")]


def test_a_drain_ends_when_its_time_is_over() -> None:
    draining = worker(phase=WorkerPhase.DRAINING, entered_s=96.0)
    assert tick({}, [draining], LIMITS, 100.0) == []
    assert tick({}, [draining], LIMITS, 101.5) == [Stop("decode-0")]


def test_a_draining_slot_that_is_wanted_again_waits_for_its_end() -> None:
    assert tick({Role.DECODE: 1}, [worker(phase=WorkerPhase.DRAINING, entered_s=99.0)], LIMITS, 100.0) == []
    stopped = worker(phase=WorkerPhase.STOPPED, entered_s=100.0)
    assert tick({Role.DECODE: 1}, [stopped], LIMITS, 100.0) == [Start(Role.DECODE, 0, 0)]


def test_a_worker_without_steps_while_work_is_pending_is_replaced() -> None:
    assert tick({Role.DECODE: 1}, [worker(since_progress_s=10.5)], LIMITS, 100.0) == [
        Replace("decode-0", "no step finished for 10.5 s")
    ]


def test_a_silent_worker_is_replaced() -> None:
    assert tick({Role.DECODE: 1}, [worker(heard_s=89.0)], LIMITS, 100.0) == [
        Replace("decode-0", "no sign of life for 11.0 s")
    ]


def test_a_worker_that_never_gets_ready_is_replaced() -> None:
    starting = worker(phase=WorkerPhase.STARTING, entered_s=0.0, heard_s=0.0)
    assert tick({Role.DECODE: 1}, [starting], LIMITS, 59.0) == []
    assert tick({Role.DECODE: 1}, [starting], LIMITS, 61.0) == [Replace("decode-0", "not ready after 60 s")]


def test_the_first_failure_is_replaced_at_once_and_later_ones_wait_longer_up_to_a_bound() -> None:
    waits = [backoff_s(Role.DECODE, n, LIMITS) for n in range(12)]
    assert waits[:5] == [0.0, 0.0, 0.5, 1.0, 2.0]
    assert waits[-1] == LIMITS.max_backoff_s
    assert backoff_s(Role.DECODE, 10_000, LIMITS) == LIMITS.max_backoff_s
    assert backoff_s(Role.DRAFT, 10_000, LIMITS) == LIMITS.max_draft_backoff_s
    failed = worker(phase=WorkerPhase.FAILED, entered_s=100.0, num_failures=3)
    assert tick({Role.DECODE: 1}, [failed], LIMITS, 100.9) == []
    assert tick({Role.DECODE: 1}, [failed], LIMITS, 101.0) == [Start(Role.DECODE, 0, 3)]


def test_steady_service_clears_a_slots_failures() -> None:
    assert failures_after(WorkerPhase.FAILED, 61.0, 7, LIMITS) == 1
    assert failures_after(WorkerPhase.FAILED, 1.0, 7, LIMITS) == 8
    assert failures_after(WorkerPhase.STOPPED, 1.0, 7, LIMITS) == 0


def test_an_ended_worker_never_comes_back() -> None:
    assert not LEGAL_MOVES[WorkerPhase.STOPPED]
    assert not LEGAL_MOVES[WorkerPhase.FAILED]
    with pytest.raises(AssertionError, match="cannot go from draining to ready"):
        check_move(WorkerPhase.DRAINING, WorkerPhase.READY)


class World:
    """Carries out actions as the controller does, without Ray."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.workers: dict[str, Observed] = {}
        self.num_starts = 0

    def move(self, name: str, phase: WorkerPhase) -> None:
        old = self.workers[name]
        check_move(old.phase, phase)
        failures = old.num_failures
        if phase not in LIVE:
            ready_for_s = self.now_s - old.entered_s if old.phase is WorkerPhase.READY else 0.0
            failures = failures_after(phase, ready_for_s, failures, LIMITS)
        self.workers[name] = worker(old.role, old.index, phase, self.now_s, self.now_s, 0.0, failures)

    def apply(self, desired: dict[Role, int]) -> None:
        for action in tick(desired, self.workers.values(), LIMITS, self.now_s):
            match action:
                case Start(role, index, failures):
                    name = worker_id(role, index)
                    assert name not in self.workers or self.workers[name].phase not in LIVE, "two workers in one slot"
                    self.num_starts += 1
                    self.workers[name] = worker(
                        role, index, WorkerPhase.STARTING, self.now_s, self.now_s, 0.0, failures
                    )
                case Drain(name):
                    self.move(name, WorkerPhase.DRAINING)
                case Stop(name):
                    self.move(name, WorkerPhase.STOPPED)
                case Replace(name, _):
                    self.move(name, WorkerPhase.FAILED)


_event = st.tuples(
    st.sampled_from(["ready", "die", "scale", "wait"]),
    st.sampled_from(list(Role)),
    st.integers(0, 3),
    st.floats(0.0, 40.0),
)


@given(st.lists(_event, max_size=40))
def test_after_any_history_the_fleet_settles_on_what_is_desired(events: list[tuple[str, Role, int, float]]) -> None:
    world, desired = World(), dict(ONE_EACH)
    for kind, role, number, wait_s in events:
        name = worker_id(role, number)
        live = name in world.workers and world.workers[name].phase in LIVE
        if kind == "scale":
            desired[role] = number
        elif kind == "die" and live:
            world.move(name, WorkerPhase.FAILED)
        elif kind == "ready" and live and world.workers[name].phase is WorkerPhase.STARTING:
            world.move(name, WorkerPhase.READY)
        elif kind == "wait":
            world.now_s += wait_s
        world.apply(desired)
    for _ in range(200):
        world.now_s += 1.0
        for name, one in list(world.workers.items()):
            if one.phase is WorkerPhase.STARTING:
                world.move(name, WorkerPhase.READY)
            elif one.phase in LIVE:
                world.workers[name] = worker(one.role, one.index, one.phase, one.entered_s, world.now_s)
        world.apply(desired)
    ready = {name for name, one in world.workers.items() if one.phase is WorkerPhase.READY}
    assert ready == {worker_id(role, index) for role, count in desired.items() for index in range(count)}
    assert not tick(desired, world.workers.values(), LIMITS, world.now_s)
