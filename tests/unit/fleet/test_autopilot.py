"""The autopilot's hands on a fleet: what it makes of decisions, and when it keeps its hands off."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from baton.errors import UnavailableError
from baton.v1.worker_pb2 import WorkerState
from cluster.config.load import loads
from cluster.contracts.demand import DemandReport, OpenRequest
from cluster.contracts.events import EventKind
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.fleet.autopilot import FleetAutopilot, Hands
from cluster.fleet.judge_process import JudgeError
from cluster.fleet.lease import Lease
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import WorkerPhase
from cluster.planner.online.judge import Answer, Question
from cluster.planner.online.setup import Change, ChangeKind, Limit, more, role_change
from tests.unit.fleet.test_lease import Shared
from tests.unit.planner.online.test_autopilot import answer
from workers.engine.wire_roles import TO_WIRE
from workers.spec import Role

TO_DECODE = role_change(Role.PREFILL, Role.DECODE)
CHUNK = Change(kind=ChangeKind.LIMIT, limits=(Limit(knob="max_batched_tokens", before=None, after=256, default=512),))


class Fleet:
    """Two workers of each pool, all ready, that count steps; and a judge with the answers of a test."""

    def __init__(self, mode: str = "act") -> None:
        text = "load_format: fake\nmodel: demo\npools: {prefill: {workers: 2}, decode: {workers: 2}}\n"
        text += f"planner: {{mode: {mode}, cooldown_s: 0, max_workers: 8}}"
        self.plan = FleetPlan(config=loads(text), model_path="m")
        self.workers = [_ready(role, index) for role in (Role.PREFILL, Role.DECODE) for index in range(2)]
        self.events: list[str] = []
        self.tuned: list[tuple[str, Tuning]] = []
        self.flips: list[tuple[str, Role]] = []
        self.refuses = False
        self.answers: list[Answer | JudgeError] = []
        self.questions: list[Question] = []
        self.store = Shared()
        hands = Hands(
            plan=lambda: self.plan,
            save=self._save,
            workers=lambda: self.workers,
            roles=self._roles,
            set_role=self._set_role,
            tell=self._tell,
        )
        self.autopilot = FleetAutopilot(hands, Lease("c", self.store), judge=self, call=self._call)

    async def look(self, answer: Answer | JudgeError | None = None) -> None:
        """A turn that is due."""
        if answer is not None:
            self.answers = [answer]
        for worker in self.workers:
            assert worker.state is not None
            worker.state.num_steps += 100
            worker.state.num_decode_steps += 50
            worker.state.num_decode_step_sequences += 100
            worker.state.decode_steps_s += 1.0
            worker.state.num_prompt_step_tokens += 5000
            worker.state.prompt_steps_s += 1.0
        self.autopilot._next_s = 0.0
        await self.autopilot._turn()

    async def ask(self, question: Question) -> tuple[Answer, float]:
        self.questions.append(question)
        told = self.answers.pop()
        if isinstance(told, JudgeError):
            raise told
        return told, 0.5

    async def close(self) -> None: ...

    def _save(self, plan: FleetPlan) -> None:
        self.plan = plan

    def _roles(self) -> dict[str, Role]:
        desired = self.plan.desired
        slots = [(f"{pool}-{i}", pool) for pool in (Role.PREFILL, Role.DECODE) for i in range(desired[pool])]
        return {name: self.plan.role_of(name, pool) for name, pool in slots}

    async def _set_role(self, name: str, role: Role) -> None:
        if self.refuses:
            raise UnavailableError(f"worker {name} is draining")
        self.flips.append((name, role))
        self.plan = replace(self.plan, roles={**self.plan.roles, name: role})
        next(one.state for one in self.workers if one.worker_id == name and one.state).role = TO_WIRE[role]

    def _tell(self, kind: EventKind, subject: str, text: str, *, is_trouble: bool = False) -> None:
        assert kind is EventKind.PLAN
        self.events.append(("! " if is_trouble else "") + text)

    async def _call(self, worker: WorkerRecord, method: str, *arguments: Any, timeout_s: float) -> None:
        assert method == "tune"
        self.tuned.append((worker.worker_id, arguments[0]))


def _ready(role: Role, index: int) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"{role}-{index}",
        role=role,
        index=index,
        incarnation=f"life-{role}-{index}",
        num_failures=0,
        entered_s=0.0,
        heard_s=0.0,
        phase=WorkerPhase.READY,
        state=WorkerState(role=TO_WIRE[role], num_blocks=1000, max_model_len=4096),
    )


@pytest.fixture
async def fleet() -> Fleet:
    made = Fleet()
    await made.look()  # the first look only begins to count steps
    return made


async def test_a_decision_is_made_and_told(fleet: Fleet) -> None:
    await fleet.look(answer(0.5, {TO_DECODE: 0.99}))
    assert fleet.flips == [("prefill-1", Role.DECODE)]
    assert fleet.events[0].startswith("applied: 1 prefill worker becomes 1 decode worker: ")
    status = fleet.autopilot.status
    assert (status.mode, status.look_s) == ("act", 0.5)
    assert status.decisions[-1].predicted_after == pytest.approx(0.99)


async def test_a_limit_goes_to_workers_and_to_the_ingress(fleet: Fleet) -> None:
    await fleet.look(answer(0.5, {CHUNK: 0.99}))
    tuning = Tuning(max_batched_tokens=256)
    assert fleet.plan.tuning == tuning
    assert fleet.autopilot.take(DemandReport(ingress_id="a", now_s=1.0)).tuning == tuning
    await fleet.look(answer(1.0, {}))
    assert fleet.tuned == [(worker.worker_id, tuning) for worker in fleet.workers]
    fleet.workers[0].incarnation = "another life"
    await fleet.look(answer(1.0, {}))
    assert fleet.tuned[4:] == [("prefill-0", tuning)], "it started anew, with the config's limits"


async def test_a_worker_more_is_a_worker_more_in_the_plan(fleet: Fleet) -> None:
    await fleet.look(answer(0.5, {more(Role.DECODE): 0.99}))
    assert fleet.plan.config.pools.decode.workers == 3
    await fleet.look()
    assert "workers" in fleet.autopilot.status.doing


async def test_what_the_fleet_refuses_is_said_with_its_reason(fleet: Fleet) -> None:
    fleet.refuses = True
    await fleet.look(answer(0.5, {TO_DECODE: 0.99}))
    assert fleet.events[-1] == "! refused: 1 prefill worker becomes 1 decode worker: worker prefill-1 is draining"


async def test_a_controller_that_was_followed_changes_nothing(fleet: Fleet) -> None:
    Lease("c", fleet.store)
    await fleet.look(answer(0.5, {TO_DECODE: 0.99}))
    assert fleet.flips == []
    assert "another controller has taken over" in fleet.events[-1]


async def test_advice_changes_nothing() -> None:
    fleet = Fleet("advise")
    await fleet.look()
    await fleet.look(answer(0.5, {TO_DECODE: 0.99}))
    assert fleet.flips == []
    assert fleet.events[-1].startswith("advised: ")
    await fleet.look(answer(0.5, {TO_DECODE: 0.98}))
    assert len(fleet.events) == 1, "once is enough"


async def test_while_it_is_off_nobody_is_asked_anything() -> None:
    fleet = Fleet("off")
    await fleet.look()
    told = fleet.autopilot.take(DemandReport(ingress_id="a", now_s=1.0))
    assert (told.wants, told.tuning) == (False, UNTUNED)
    assert fleet.questions == []
    assert fleet.autopilot.status.mode == "off"


async def test_limits_it_had_set_end_when_it_is_switched_off(fleet: Fleet) -> None:
    await fleet.look(answer(0.5, {CHUNK: 0.99}))
    await fleet.look(answer(1.0, {}))
    config = replace(fleet.plan.config, planner=replace(fleet.plan.config.planner, mode="off"))
    fleet.plan = replace(fleet.plan, config=config)
    await fleet.look()
    assert fleet.tuned[-1][1] == UNTUNED


async def test_what_a_person_changed_stands(fleet: Fleet) -> None:
    fleet.autopilot.changed_by_hand()
    await fleet.look()
    assert "somebody changed something" in fleet.events[-1]


async def test_a_simulation_that_fails_costs_a_look(fleet: Fleet) -> None:
    await fleet.look(JudgeError("no answer within 60 s"))
    assert "no answer within 60 s" in fleet.autopilot.status.doing
    await fleet.look(answer(0.5, {TO_DECODE: 0.99}))
    assert len(fleet.flips) == 1


async def test_its_life_ends_with_its_task(fleet: Fleet) -> None:
    task = asyncio.create_task(fleet.autopilot.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_requests_that_wait_are_part_of_the_load(fleet: Fleet) -> None:
    waits = tuple(
        OpenRequest(arrived_s=1.0, num_prompt_tokens=9, num_cached_tokens=0, num_output_tokens=0, ttft_s=None)
        for _ in range(30)
    )
    fleet.autopilot.take(DemandReport(ingress_id="a", now_s=1.0, open=waits))
    await fleet.look(answer(1.0, {}))
    assert fleet.questions[-1].load.arrivals
