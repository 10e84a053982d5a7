"""Roles as the controller keeps them: written down once a worker has them, set back where a change did not finish."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest

from baton.errors import BatonError, InvalidRequestError, UnavailableError
from baton.v1.worker_pb2 import WorkerState
from cluster.config.load import from_tree
from cluster.contracts.events import EventKind
from cluster.fleet import plan as plans
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.role_keeper import RoleKeeper, kept_roles
from cluster.fleet.tick import WorkerPhase
from workers.engine.wire_roles import FROM_WIRE, TO_WIRE
from workers.role_rules import RoleChanged
from workers.spec import Role

POOLS = {"prefill": {"workers": 1}, "decode": {"workers": 2}}


def make_plan(pools: Mapping[str, object] = POOLS, roles: Mapping[str, Role] | None = None) -> FleetPlan:
    tree = {"model": "demo", "load_format": "fake", "pools": dict(pools)}
    return FleetPlan(config=from_tree(tree), model_path="", roles=roles or {})


class Fleet:
    """Workers that do what they are told, but for what is in `failing`, once `gate` is open."""

    def __init__(self, pools: Mapping[str, object] = POOLS) -> None:
        self.plan = make_plan(pools)
        slots = [(role, index) for role, count in self.plan.desired.items() for index in range(count)]
        self.workers = {record.worker_id: record for record in (_ready(role, index) for role, index in slots)}
        self.said: list[tuple[str, Role]] = []
        self.events: list[tuple[str, str, bool]] = []
        self.failing: dict[str, BatonError | None] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.keeper = RoleKeeper(
            plan=lambda: self.plan,
            save=self._save,
            workers=lambda: list(self.workers.values()),
            spawn=lambda work: self._spawn(work),
            tell=self._tell,
            call=self._call,
        )

    def roles(self) -> list[str]:
        return [f"{one.worker_id} {one.role}" for one in self.keeper.all()]

    async def mended(self) -> None:
        self.keeper.mend()
        await asyncio.gather(*self.tasks)

    def _save(self, plan: FleetPlan) -> None:
        self.plan = plan

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    def _tell(self, kind: EventKind, subject: str, text: str, *, is_trouble: bool = False) -> None:
        assert kind is EventKind.ROLE
        self.events.append((subject, text, is_trouble))

    async def _call(self, worker: WorkerRecord, method: str, *arguments: Any, timeout_s: float) -> Any:
        assert method == "set_role"
        assert timeout_s > arguments[1]
        self.said.append((worker.worker_id, arguments[0]))
        await self.gate.wait()
        if worker.worker_id in self.failing:
            error = self.failing[worker.worker_id]
            if error is None:
                return None
            raise error
        assert worker.state is not None
        was = FROM_WIRE[worker.state.role]
        return RoleChanged(role=arguments[0], was=was, num_moved=3, took_s=0.25)


def _ready(role: Role, index: int) -> WorkerRecord:
    name = f"{role}-{index}"
    return WorkerRecord(
        worker_id=name,
        role=role,
        index=index,
        incarnation=f"life-{name}",
        num_failures=0,
        entered_s=0.0,
        heard_s=0.0,
        phase=WorkerPhase.READY,
        state=WorkerState(worker_id=name, role=TO_WIRE[role]),
    )


async def test_a_role_is_kept_until_it_is_reset_and_events_say_what_became_of_it() -> None:
    fleet = Fleet()
    await fleet.keeper.change("decode-1", Role.PREFILL)
    assert fleet.plan.roles == {"decode-1": Role.PREFILL}
    assert fleet.roles() == ["prefill-0 prefill", "decode-0 decode", "decode-1 prefill"]
    assert fleet.plan.desired[Role.DECODE] == 2
    assert (fleet.plan.desired_by_role[Role.PREFILL], fleet.plan.desired_by_role[Role.DECODE]) == (2, 1)
    await fleet.keeper.change("decode-1", None)
    assert fleet.plan.roles == {}
    assert fleet.events == [
        ("decode-1", "is prefill now, was decode, after 0.25 s; 3 answers go on elsewhere", False),
        ("decode-1", "is decode now, was prefill, after 0.25 s; 3 answers go on elsewhere", False),
    ]
    assert (await fleet.keeper.change("decode-1", Role.DECODE)).text == "is decode already"
    assert len(fleet.events) == 2


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("decode-7", Role.PREFILL, "worker: there is no 'decode-7'; name one of decode-0, decode-1, prefill-0"),
        ("decode-0", Role.DRAFT, "role: draft is none that a worker can change to; give prefill, decode, mixed"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(name: str, role: Role, says: str) -> None:
    fleet = Fleet()
    with pytest.raises(InvalidRequestError) as error:
        await fleet.keeper.change(name, role)
    assert error.value.message == says
    assert not fleet.said


async def test_draft_workers_and_gangs_that_divide_prompts_stay_what_they_are() -> None:
    fleet = Fleet(
        {"prefill": {"workers": 1, "sequence_parallel": 2}, "decode": {"workers": 1}, "draft": {"workers": 1}}
    )
    with pytest.raises(InvalidRequestError, match=r"its 2 ranks divide prompts between them \(sequence_parallel\)"):
        await fleet.keeper.change("prefill-0", Role.MIXED)
    with pytest.raises(InvalidRequestError, match="worker: draft-0 holds a draft model and takes no requests"):
        await fleet.keeper.change("draft-0", Role.DECODE)


async def test_somebody_always_writes_answers_also_while_others_change() -> None:
    fleet = Fleet()
    fleet.gate.clear()
    first = asyncio.create_task(fleet.keeper.change("decode-0", Role.PREFILL))
    await asyncio.sleep(0)
    with pytest.raises(InvalidRequestError) as error:
        await fleet.keeper.change("decode-1", Role.PREFILL)
    assert error.value.message == (
        "role: decode-1 is the last worker that writes answers; make it mixed, or first another one decode"
    )
    with pytest.raises(UnavailableError, match="worker decode-0 is becoming prefill already; try again then"):
        await fleet.keeper.change("decode-0", Role.MIXED)
    fleet.gate.set()
    await first
    await fleet.keeper.change("decode-1", Role.MIXED)
    await fleet.keeper.change("prefill-0", Role.DECODE)  # whoever writes can read too


@pytest.mark.parametrize("phase", [WorkerPhase.WAITING, WorkerPhase.STARTING, WorkerPhase.DRAINING])
async def test_a_worker_that_comes_or_goes_is_left_alone(phase: WorkerPhase) -> None:
    fleet = Fleet()
    fleet.workers["decode-1"].phase = phase
    with pytest.raises(UnavailableError, match=f"worker decode-1 is {phase}; change its role when it is ready"):
        await fleet.keeper.change("decode-1", Role.PREFILL)
    with pytest.raises(InvalidRequestError, match="the last worker that writes answers"):
        await fleet.keeper.change("decode-0", Role.PREFILL)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnavailableError("worker decode-1 ended no step within 5 s"), "stays decode: worker decode-1 ended no step"),
        (None, "stays decode: worker decode-1 died meanwhile; another one comes in its place"),
    ],
    ids=["slow", "dead"],
)
async def test_a_change_that_cannot_finish_is_not_kept(error: BatonError | None, says: str) -> None:
    fleet = Fleet()
    fleet.failing["decode-1"] = error
    with pytest.raises(UnavailableError):
        await fleet.keeper.change("decode-1", Role.PREFILL)
    assert fleet.plan.roles == {}
    assert fleet.events[0][1].startswith(says)
    assert fleet.events[0][2]
    del fleet.failing["decode-1"]
    await fleet.keeper.change("decode-1", Role.PREFILL)


async def test_a_worker_that_changed_after_all_is_set_back_and_one_that_will_not_is_told_again_later() -> None:
    fleet = Fleet()
    late = fleet.workers["decode-1"]
    assert late.state is not None
    late.state.role = TO_WIRE[Role.PREFILL]  # the answer to its change never came, or who asked for it died
    fleet.failing["decode-1"] = UnavailableError("busy")
    await fleet.mended()
    await fleet.mended()
    assert fleet.said == [("decode-1", Role.DECODE)]
    fleet.failing.clear()
    fleet.keeper._retry_s.clear()
    await fleet.mended()
    assert late.role_now is Role.DECODE
    assert fleet.events == [
        ("decode-1", "set back: is decode now, was prefill, after 0.25 s; 3 answers go on elsewhere", False)
    ]
    await fleet.mended()
    assert len(fleet.said) == 2


def test_roles_are_saved_with_the_plan_and_new_workers_begin_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[bytes, bytes] = {}
    monkeypatch.setattr(plans, "_internal_kv_put", lambda key, value, **_: kept.update({key: value}))
    monkeypatch.setattr(plans, "_internal_kv_get", lambda key, **_: kept.get(key))
    plans.save("n", make_plan(roles={"decode-1": Role.PREFILL}))
    found = plans.load_saved("n")
    assert found is not None
    assert found.roles == {"decode-1": Role.PREFILL}
    spec = plans.worker_spec(found, "decode-1", Role.DECODE, cores=(0,), host="h", secret="s")
    assert (spec.worker_id, spec.role) == ("decode-1", Role.PREFILL)


def test_another_config_leaves_roles_to_the_workers_that_stay() -> None:
    roles = {"decode-1": Role.PREFILL, "decode-2": Role.MIXED}
    assert kept_roles(roles, make_plan()) == {"decode-1": Role.PREFILL}
    assert kept_roles({"decode-0": Role.PREFILL, **roles}, make_plan()) == {}  # nobody would write answers
