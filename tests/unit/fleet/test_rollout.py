"""A rollout never takes away what serves, comes to its end, and stops where what is new does not come up."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fleet.rollout import (
    MAX_FAILURES,
    ROOM_S,
    SETTLE_S,
    Rollout,
    budget,
    decide,
    failed,
    is_all_new,
    is_finished,
    num_replaced,
    slots_of,
)
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
    worker_id,
)
from workers.spec import SERVING_ROLES, Role

LIMITS = FleetLimits(start_timeout_s=60, step_timeout_s=10, silence_timeout_s=1e9, drain_timeout_s=5)
GOING = Rollout()


def worker(
    index: int = 0,
    phase: WorkerPhase = WorkerPhase.READY,
    *,
    role: Role = Role.DECODE,
    outdated: bool = False,
    beside: bool = False,
    entered_s: float = 0.0,
    num_failures: int = 0,
    may_displace: bool = False,
    is_final: bool = False,
) -> Observed:
    return Observed(
        worker_id=worker_id(role, index, beside),
        role=role,
        index=index,
        phase=phase,
        entered_s=entered_s,
        heard_s=entered_s,
        num_failures=num_failures,
        beside=beside,
        outdated=outdated,
        may_displace=may_displace,
        is_final=is_final,
    )


def test_a_successor_starts_beside_the_worker_that_it_replaces() -> None:
    assert decide({Role.DECODE: 1}, [worker(outdated=True)], LIMITS, 9.0, GOING) == [
        Start(Role.DECODE, 0, 0, beside=True)
    ]
    back = worker(outdated=True, beside=True)
    assert decide({Role.DECODE: 1}, [back], LIMITS, 9.0, GOING) == [Start(Role.DECODE, 0, 0, beside=False)]


def test_the_old_worker_drains_when_the_new_one_has_settled() -> None:
    pair = [worker(outdated=True), worker(beside=True, entered_s=9.0)]
    assert decide({Role.DECODE: 1}, pair, LIMITS, 9.0 + SETTLE_S / 2, GOING) == []
    assert decide({Role.DECODE: 1}, pair, LIMITS, 9.0 + SETTLE_S, GOING) == [Drain("decode-0")]


@pytest.mark.parametrize(("num_workers", "at_once"), [(1, 1), (3, 1), (8, 2), (9, 2)])
def test_a_quarter_of_a_pool_is_replaced_at_once(num_workers: int, at_once: int) -> None:
    workers = [worker(index, outdated=True) for index in range(num_workers)]
    actions = decide({Role.DECODE: num_workers}, workers, LIMITS, 9.0, GOING)
    assert actions == [Start(Role.DECODE, index, 0, beside=True) for index in range(at_once)]


def test_without_room_for_both_the_old_one_goes_first_where_that_makes_room() -> None:
    waits = worker(phase=WorkerPhase.WAITING, beside=True)
    assert decide({Role.DECODE: 1}, [worker(outdated=True), waits], LIMITS, 99.0, GOING) == []
    fits = replace(waits, may_displace=True)
    assert decide({Role.DECODE: 1}, [worker(outdated=True), fits], LIMITS, 99.0, GOING) == [Drain("decode-0")]


def test_no_more_go_first_than_the_pool_can_do_without() -> None:
    waits = [worker(index, WorkerPhase.WAITING, beside=True, may_displace=True) for index in range(2)]
    old = [worker(index, outdated=True) for index in range(2)]
    assert decide({Role.DECODE: 2}, [*old, *waits], LIMITS, 99.0, GOING) == [Drain("decode-0")]
    one_is_down = [old[0], *waits]
    assert decide({Role.DECODE: 2}, one_is_down, LIMITS, 99.0, GOING) == []
    never_was = Rollout(ready_before={Role.DECODE: 1})
    assert decide({Role.DECODE: 2}, one_is_down, LIMITS, 99.0, never_was) == [Drain("decode-0")]


def test_a_worker_that_never_served_is_stopped_at_once() -> None:
    for phase in (WorkerPhase.WAITING, WorkerPhase.STARTING):
        actions = decide({Role.DECODE: 1}, [worker(phase=phase, outdated=True)], LIMITS, 1.0, GOING)
        assert actions == [Stop("decode-0")]


def test_a_second_change_ends_the_successor_of_the_first() -> None:
    both = [worker(outdated=True), worker(beside=True, outdated=True, entered_s=5.0)]
    assert decide({Role.DECODE: 1}, both, LIMITS, 99.0, GOING) == [Drain("decode-0b")]
    taken_back = [worker(), worker(beside=True, outdated=True, entered_s=5.0)]
    assert decide({Role.DECODE: 1}, taken_back, LIMITS, 99.0, GOING) == [Drain("decode-0b")]


def test_workers_of_another_model_stay_until_the_ingress_has_turned() -> None:
    desired, held = {Role.DECODE: 2}, Rollout(holds_old=True)
    old = [worker(index, outdated=True) for index in range(3)]
    assert decide(desired, old, LIMITS, 9.0, held) == [
        Start(Role.DECODE, 0, 0, beside=True),
        Start(Role.DECODE, 1, 0, beside=True),
    ]
    both = [*old, *(worker(index, beside=True, entered_s=9.0) for index in range(2))]
    assert decide(desired, both, LIMITS, 99.0, held) == []
    assert is_all_new(desired, both, 99.0)
    assert not is_all_new(desired, both, 9.0)
    assert {action.worker_id for action in decide(desired, both, LIMITS, 99.0, GOING) if isinstance(action, Drain)} == {
        "decode-0",
        "decode-1",
        "decode-2",
    }


def test_pools_that_take_the_place_of_others_come_first() -> None:
    desired = {Role.PREFILL: 1, Role.DECODE: 1}
    mixed = [worker(index, role=Role.MIXED) for index in range(2)]
    coming = [worker(role=role, phase=WorkerPhase.STARTING) for role in desired]
    assert decide(desired, [*mixed, *coming], LIMITS, 9.0, GOING) == []
    there = [worker(role=role) for role in desired]
    assert decide(desired, [*mixed, *there], LIMITS, 9.0, GOING) == [Drain("mixed-0"), Drain("mixed-1")]
    waits = [worker(role=role, phase=WorkerPhase.WAITING, may_displace=True) for role in desired]
    assert decide(desired, [*mixed, *waits], LIMITS, 9.0, GOING) == [Drain("mixed-0")]
    going = [replace(mixed[0], phase=WorkerPhase.DRAINING, entered_s=8.0), mixed[1]]
    assert decide(desired, [*going, *waits], LIMITS, 9.0, GOING) == []


def test_everything_drains_when_nothing_is_wanted_any_more() -> None:
    assert decide({}, [worker(outdated=True)], LIMITS, 9.0, Rollout(holds_old=True)) == [Drain("decode-0")]


def test_a_successor_that_does_not_come_up_is_tried_a_few_times_and_then_told_of() -> None:
    once = worker(phase=WorkerPhase.FAILED, beside=True, num_failures=1)
    assert decide({Role.DECODE: 1}, [worker(outdated=True), once], LIMITS, 0.0, GOING) == [
        Start(Role.DECODE, 0, 1, beside=True)
    ]
    assert failed([once]) is None
    for lost in (replace(once, num_failures=MAX_FAILURES), replace(once, is_final=True)):
        assert failed([worker(outdated=True), lost]) is lost
        assert failed([replace(lost, outdated=True)]) is None


def test_a_halted_rollout_begins_nothing_and_fills_what_is_empty() -> None:
    halted = Rollout(is_halted=True)
    assert decide({Role.DECODE: 1}, [worker(outdated=True)], LIMITS, 9.0, halted) == []
    starting = worker(phase=WorkerPhase.STARTING, outdated=True)
    assert decide({Role.DECODE: 1}, [starting], LIMITS, 9.0, halted) == []
    gone = worker(phase=WorkerPhase.FAILED, num_failures=1)
    assert decide({Role.DECODE: 1}, [gone], LIMITS, 9.0, halted) == [Start(Role.DECODE, 0, 1)]


def test_it_is_over_when_nothing_outdated_lives_and_all_are_there_or_wait_for_places_that_nobody_has() -> None:
    desired = {Role.DECODE: 1}
    assert is_finished(desired, [worker()], 9.0)
    assert not is_finished(desired, [worker(), worker(beside=True, outdated=True)], 9.0)
    assert not is_finished(desired, [worker(phase=WorkerPhase.STARTING)], 99.0)
    waits = worker(phase=WorkerPhase.WAITING)
    assert not is_finished(desired, [waits], ROOM_S / 2)
    assert is_finished(desired, [waits], ROOM_S * 2)


class World:
    """A fleet whose nodes hold so many workers, and where so many starts of new ones fail."""

    def __init__(self, desired: dict[Role, int], room: int, num_to_fail: int) -> None:
        self.now_s = 0.0
        self.desired = desired
        self.room = room
        self.num_to_fail = num_to_fail
        self.is_halted = False
        self.workers = {
            worker_id(role, index): worker(index, role=role, outdated=True)
            for role, count in desired.items()
            for index in range(count)
        }

    @property
    def live(self) -> list[Observed]:
        return [one for one in self.workers.values() if one.phase in LIVE]

    def ready(self, role: Role) -> int:
        return sum(slot.is_ready for slot in slots_of(self.desired, self.workers.values())[role])

    def move(self, name: str, phase: WorkerPhase) -> None:
        old = self.workers[name]
        check_move(old.phase, phase)
        failures = old.num_failures
        if phase not in LIVE:
            ready_s = self.now_s - old.entered_s if old.phase is WorkerPhase.READY else 0.0
            failures = failures_after(phase, ready_s, failures, LIMITS)
        self.workers[name] = replace(old, phase=phase, entered_s=self.now_s, num_failures=failures, may_displace=False)

    def turn(self) -> None:
        self.now_s += 1.0
        for name, one in list(self.workers.items()):
            if one.phase is WorkerPhase.DRAINING:
                self.move(name, WorkerPhase.STOPPED)
            elif one.phase is WorkerPhase.WAITING:
                self.seat(name)
            elif one.phase is WorkerPhase.STARTING and not one.outdated and self.num_to_fail:
                self.num_to_fail -= 1
                self.move(name, WorkerPhase.FAILED)
            elif one.phase is WorkerPhase.STARTING:
                self.move(name, WorkerPhase.READY)
        self.is_halted = self.is_halted or failed(self.workers.values()) is not None
        for action in decide(
            self.desired, self.workers.values(), LIMITS, self.now_s, Rollout(is_halted=self.is_halted)
        ):
            self.carry_out(action)

    def seat(self, name: str) -> None:
        one = self.workers[name]
        if sum(other.phase is not WorkerPhase.WAITING for other in self.live) < self.room:
            self.move(name, WorkerPhase.STARTING)
        else:
            self.workers[name] = replace(one, may_displace=self.now_s > one.entered_s + ROOM_S)

    def carry_out(self, action: Start | Drain | Stop | Replace) -> None:
        if isinstance(action, Start):
            name = worker_id(action.role, action.index, action.beside)
            assert name not in self.workers or self.workers[name].phase not in LIVE, "two workers on one side"
            made = worker(
                action.index,
                WorkerPhase.WAITING,
                role=action.role,
                outdated=self.is_halted,
                beside=action.beside,
                entered_s=self.now_s,
                num_failures=action.num_failures,
            )
            self.workers[name] = made
        elif isinstance(action, Replace):
            self.move(action.worker_id, WorkerPhase.FAILED)
        else:
            self.move(action.worker_id, WorkerPhase.DRAINING if isinstance(action, Drain) else WorkerPhase.STOPPED)


_desired = st.fixed_dictionaries({}, optional={role: st.integers(1, 5) for role in SERVING_ROLES}).filter(bool)
_killed = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=2)


@settings(max_examples=60, deadline=None)
@given(_desired, st.integers(0, 12), st.integers(0, 2), _killed)
def test_a_rollout_ends_with_all_workers_new_and_never_takes_more_than_its_part(
    desired: dict[Role, int], spare: int, num_to_fail: int, killed: list[tuple[int, int]]
) -> None:
    world = World(desired, sum(desired.values()) + spare, 0 if killed else num_to_fail)
    num_lost = dict.fromkeys(desired, 0)
    for turn in range(400):
        before = {role: world.ready(role) for role in desired}
        world.turn()
        for role, count in desired.items():
            taken = 0 if spare >= sum(map(budget, desired.values())) and not killed else budget(count)
            assert world.ready(role) >= min(before[role], count - taken) - num_lost[role]
            assert sum(slot.is_pair for slot in slots_of(desired, world.workers.values())[role]) <= budget(count)
        for at, number in killed:
            ready = [one for one in world.live if one.phase is WorkerPhase.READY]
            if at == turn and ready:
                one = ready[number % len(ready)]
                world.move(one.worker_id, WorkerPhase.FAILED)
                num_lost[one.role] += 1
        if turn > 30 and num_replaced(desired, world.workers.values()) == sum(desired.values()):
            break
    assert is_finished(desired, world.workers.values(), world.now_s)
    assert not world.is_halted
    assert num_replaced(desired, world.workers.values()) == sum(desired.values())
    assert {(one.role, one.index) for one in world.live} == {(r, i) for r, n in desired.items() for i in range(n)}


@settings(max_examples=20, deadline=None)
@given(_desired, st.integers(0, 12))
def test_what_does_not_come_up_is_halted_and_what_serves_goes_on(desired: dict[Role, int], spare: int) -> None:
    world = World(desired, sum(desired.values()) + spare, num_to_fail=10_000)
    for _ in range(120):
        world.turn()
    assert world.is_halted
    assert {role: world.ready(role) for role in desired} == desired
    assert all(one.outdated for one in world.live), "what was before, also where it had gone first"
