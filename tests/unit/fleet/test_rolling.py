"""A change is carried through the fleet, halted where what is new does not come up, gone on with after a restart."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config.load import loads
from cluster.contracts.events import EventKind
from cluster.fleet import change, rolling
from cluster.fleet.change import Change
from cluster.fleet.generation import Generation
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.rolling import Rolling
from cluster.fleet.rollout import MAX_FAILURES
from cluster.fleet.status import RankStatus
from cluster.fleet.tick import LIVE, Drain, FleetLimits, Start, WorkerPhase, worker_id
from workers.spec import Role

LIMITS = FleetLimits(start_timeout_s=60, step_timeout_s=10, silence_timeout_s=10)
POOL = "model: demo\npools: {mixed: {workers: 1}}\n"


def plan(text: str = "") -> FleetPlan:
    return FleetPlan(config=replace(loads(POOL + text), dtype="float32", device="cpu"), model_path="/m")


class FakeCrew:
    def __init__(self) -> None:
        self.workers: dict[str, WorkerRecord] = {}

    @property
    def live(self) -> list[WorkerRecord]:
        return [worker for worker in self.workers.values() if worker.phase in LIVE]

    def start(self, start: Start, generation: Generation, seating: object, *, plan: FleetPlan | None = None) -> None:
        name, now_s = worker_id(start.role, start.index, start.beside), time.monotonic()
        self.workers[name] = WorkerRecord(
            worker_id=name,
            role=start.role,
            index=start.index,
            beside=start.beside,
            incarnation=generation.incarnation(),
            num_failures=start.num_failures,
            plan=plan,
            entered_s=now_s,
            heard_s=now_s,
        )

    def forget_failures(self) -> None:
        self.workers = {name: worker for name, worker in self.workers.items() if worker.phase in LIVE}


class Fleet:
    def __init__(self) -> None:
        self.wanted = plan()
        self.crew = FakeCrew()
        self.told: list[tuple[str, bool]] = []
        self.asked_for: set[str] = set()
        self.rolling = self.controller()
        self.start_all("mixed-0")

    def controller(self) -> Rolling:
        crew: Any = self.crew
        seating: Any = SimpleNamespace(fits_without=lambda worker, going: True)
        return Rolling(
            key="n",
            plan=lambda: self.wanted,
            crew=crew,
            seating=seating,
            tell=self.tell,
            is_asked_for=lambda model: model in self.asked_for,
        )

    def tell(self, kind: EventKind, subject: str, text: str, *, is_trouble: bool = False) -> None:
        self.told.append((text, is_trouble))

    def start_all(self, *names: str) -> None:
        for name in names:
            self.rolling.start(Start(Role.MIXED, 0, 0, beside=name.endswith("b")))
            self.ready(name)

    def ready(self, name: str) -> None:
        self.crew.workers[name].phase = WorkerPhase.READY
        self.crew.workers[name].entered_s -= 100

    def apply(self, new: FleetPlan) -> None:
        before, self.wanted = self.wanted, new
        self.rolling.begin(before, "the change")

    def turn(self) -> list[Any]:
        return self.rolling.decide(self.wanted.desired, LIMITS, time.monotonic() + 3)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    kept: dict[str, Change | None] = {}
    monkeypatch.setattr(change, "save", lambda key, value: kept.update({key: value}))
    monkeypatch.setattr(change, "load_saved", kept.get)
    assert rolling.change is change
    return Fleet()


def test_a_change_of_nothing_that_workers_are_started_with_replaces_none(fleet: Fleet) -> None:
    fleet.apply(plan("router: {max_queue: 3}"))
    assert fleet.rolling.status(fleet.wanted.desired, 0.0) is None
    assert fleet.turn() == []


def test_workers_are_replaced_and_the_change_ends(fleet: Fleet) -> None:
    fleet.apply(plan("engine: {block_size: 32}"))
    (start,) = fleet.turn()
    assert start == Start(Role.MIXED, 0, 0, beside=True)
    fleet.rolling.start(start)
    fleet.ready("mixed-0b")
    assert fleet.turn() == [Drain("mixed-0")]
    fleet.crew.workers["mixed-0"].phase = WorkerPhase.STOPPED
    assert fleet.turn() == []
    assert fleet.rolling.status(fleet.wanted.desired, 0.0) is None
    assert fleet.told == [
        ("the change: 0 of 1 are as wanted", False),
        ("the change is done, all workers are as wanted", False),
    ]


def test_a_controller_that_comes_back_goes_on(fleet: Fleet) -> None:
    fleet.apply(plan("engine: {block_size: 32}"))
    fleet.rolling = fleet.controller()
    assert fleet.turn() == [Start(Role.MIXED, 0, 0, beside=True)]
    status = fleet.rolling.status(fleet.wanted.desired, 0.0)
    assert status is not None
    assert (status.num_replaced, status.num_wanted, status.halted) == (0, 1, "")


def test_what_does_not_come_up_halts_it_and_what_dies_is_started_as_before(fleet: Fleet) -> None:
    before = fleet.wanted
    fleet.apply(plan("engine: {block_size: 32}"))
    fleet.rolling.start(Start(Role.MIXED, 0, 0, beside=True))
    lost = fleet.crew.workers["mixed-0b"]
    lost.phase, lost.num_failures, lost.error = WorkerPhase.FAILED, MAX_FAILURES, "no memory"
    assert fleet.turn() == []
    status = fleet.rolling.status(fleet.wanted.desired, 0.0)
    assert status is not None
    assert status.halted == "mixed-0b does not come up: no memory"
    assert fleet.told[-1] == ("the change is halted, mixed-0b does not come up: no memory", True)

    old = fleet.crew.workers["mixed-0"]
    old.phase, old.entered_s = WorkerPhase.FAILED, time.monotonic()
    (start,) = fleet.turn()
    fleet.rolling.start(start)
    started = fleet.crew.workers["mixed-0"]
    assert started.plan == before
    assert started.generation == old.generation


def test_the_file_of_before_takes_it_back(fleet: Fleet) -> None:
    before = fleet.wanted
    fleet.apply(plan("engine: {block_size: 32}"))
    fleet.start_all("mixed-0b")
    fleet.apply(before)
    assert fleet.turn() == [Drain("mixed-0b")]


def test_another_model_waits_for_the_ingress(fleet: Fleet) -> None:
    fleet.apply(replace(plan(), model_path="/other"))
    fleet.start_all("mixed-0b")
    assert fleet.turn() == []
    status = fleet.rolling.status(fleet.wanted.desired, time.monotonic())
    assert status is not None
    assert (status.holds_old, status.may_switch) == (True, False)
    fleet.asked_for.add(fleet.crew.workers["mixed-0b"].generation.model)
    status = fleet.rolling.status(fleet.wanted.desired, time.monotonic())
    assert status is not None
    assert status.may_switch
    assert not fleet.rolling.serves_wanted_model(fleet.crew.workers["mixed-0"])
    fleet.rolling.switched()
    assert fleet.turn() == [Drain("mixed-0")]


def test_workers_on_a_node_that_is_to_be_empty_are_replaced(fleet: Fleet) -> None:
    fleet.crew.workers["mixed-0"].ranks = (RankStatus(node_id="a"),)
    fleet.apply(replace(plan(), drained=("a",)))
    assert fleet.turn() == [Start(Role.MIXED, 0, 0, beside=True)]
    fleet.apply(plan())
    assert fleet.turn() == []
