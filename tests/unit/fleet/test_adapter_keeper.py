"""Adapters that come and go while workers serve: on all of them or on none, and from allowed folders alone."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.errors import ConfigError, InvalidRequestError, ModelNotFoundError
from baton.v1.worker_pb2 import Adapter, WorkerState
from cluster.config.load import from_tree
from cluster.fleet import adapter_keeper
from cluster.fleet.adapter_keeper import AdapterKeeper, allowed_folder
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import WorkerPhase
from tests.adapters import adapter_of
from tests.models import tiny
from workers.spec import Role


class Fleet:
    """Two workers that take every word, but what is in `failing`; and the plan."""

    def __init__(self, root: Path, max_loaded: int = 2) -> None:
        tree = {
            "model": str(tiny("llama")),
            "served_name": "m",
            "adapters_dynamic": {"folders": [str(root)], "max_loaded": max_loaded},
        }
        self.plan = FleetPlan(config=from_tree(tree), model_path=str(tiny("llama")))
        self.workers = [_worker(Role.PREFILL), _worker(Role.DECODE)]
        self.said: list[tuple[str, str, str]] = []
        self.failing: dict[str, ConfigError] = {}
        self.num_uses = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.keeper = AdapterKeeper(
            plan=lambda: self.plan, save=self._save, workers=lambda: self.workers, spawn=self._spawn, call=self._call
        )

    def _save(self, plan: FleetPlan) -> None:
        self.plan = plan

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def _call(self, worker: WorkerRecord, method: str, *arguments: Any, timeout_s: float) -> Any:
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].name
        self.said.append((worker.worker_id, method, name))
        if method == "load_adapter" and worker.worker_id in self.failing:
            raise self.failing[worker.worker_id]
        return self.num_uses if method == "num_adapter_uses" else None

    def methods(self, method: str) -> list[str]:
        return [worker for worker, one, _ in self.said if one == method]


def _worker(role: Role) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"{role.value}-0",
        role=role,
        index=0,
        incarnation=role.value,
        num_failures=0,
        entered_s=0.0,
        heard_s=0.0,
        phase=WorkerPhase.READY,
    )


@pytest.fixture
def root() -> Path:
    return adapter_of(tiny("llama"), 1, ("q_proj",)).parent


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_keeper, "LOOK_S", 0.01)


async def test_an_adapter_is_loaded_on_every_worker_and_freed_when_nobody_uses_it(root: Path) -> None:
    fleet, folder = Fleet(root), adapter_of(tiny("llama"), 1, ("q_proj",))
    found = await fleet.keeper.load("sql", str(folder))
    assert fleet.methods("load_adapter") == ["prefill-0", "decode-0"]
    assert fleet.plan.adapters == (found,)
    fleet.num_uses = 1
    await fleet.keeper.unload("sql")
    assert (fleet.methods("retire_adapter"), fleet.plan.adapters) == (["prefill-0", "decode-0"], ())
    while len(fleet.methods("num_adapter_uses")) < 6:  # noqa: ASYNC110, looks come in time
        await asyncio.sleep(0.005)
    assert not fleet.methods("remove_adapter")
    with pytest.raises(InvalidRequestError, match="lora_name: 'sql' is being unloaded, answers are still written"):
        await fleet.keeper.load("sql", str(folder))
    fleet.num_uses = 0
    await asyncio.gather(*fleet.tasks)
    assert fleet.methods("remove_adapter") == ["prefill-0", "decode-0"]
    await fleet.keeper.load("sql", str(folder))


async def test_where_one_worker_refuses_it_none_has_it(root: Path) -> None:
    fleet, folder = Fleet(root), adapter_of(tiny("llama"), 1, ("q_proj",))
    fleet.failing["decode-0"] = ConfigError("adapters.sql: /adapters/sql is no folder; give one")
    with pytest.raises(InvalidRequestError, match=r"lora_path: adapters\.sql: /adapters/sql is no folder") as caught:
        await fleet.keeper.load("sql", str(folder))
    assert caught.value.field == "lora_path"
    assert fleet.plan.adapters == ()
    await asyncio.gather(*fleet.tasks)
    assert fleet.methods("remove_adapter") == ["prefill-0", "decode-0"]


async def test_a_worker_that_was_started_before_is_given_what_it_lacks(root: Path) -> None:
    fleet, folder = Fleet(root), adapter_of(tiny("llama"), 1, ("q_proj",))
    await fleet.keeper.load("sql", str(folder))
    fleet.workers.append(replace(_worker(Role.DECODE), worker_id="decode-1", incarnation="new", state=WorkerState()))
    fleet.keeper.mend()
    fleet.keeper.mend()
    await asyncio.gather(*fleet.tasks)
    assert fleet.methods("load_adapter") == ["prefill-0", "decode-0", "decode-1"]


async def test_a_worker_that_comes_with_one_that_was_unloaded_meanwhile_gives_it_up(root: Path) -> None:
    fleet = Fleet(root)
    brought = WorkerState(adapters=[Adapter(name="sql", hash="ab")])
    fleet.workers.append(replace(_worker(Role.DECODE), worker_id="decode-1", incarnation="new", state=brought))
    fleet.keeper.mend()
    fleet.keeper.mend()
    await asyncio.gather(*fleet.tasks)
    for method in ("retire_adapter", "remove_adapter"):
        assert fleet.methods(method) == ["prefill-0", "decode-0", "decode-1"]


async def test_a_worker_with_other_weights_under_a_name_is_given_those_that_are_wanted(root: Path) -> None:
    fleet, folder = Fleet(root), adapter_of(tiny("llama"), 1, ("q_proj",))
    found = await fleet.keeper.load("sql", str(folder))
    for of in (found.content_hash, "older"):
        state = WorkerState(adapters=[Adapter(name="sql", hash=of)])
        fleet.workers.append(replace(_worker(Role.DECODE), worker_id=of, incarnation=of, state=state))
    fleet.keeper.mend()
    await asyncio.gather(*fleet.tasks)
    assert fleet.methods("load_adapter") == ["prefill-0", "decode-0", "older"]
    assert not fleet.methods("retire_adapter")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m", "lora_name: 'm' is the model's own name"),
        ("a b", "lora_name: 'a b' is no name for an adapter"),
        ("first", "lora_name: 'first' is loaded already; unload it first"),
        ("second", r"one more than the 1 that may be loaded \(adapters_dynamic\.max_loaded\)"),
    ],
)
async def test_names_that_cannot_be_are_refused(root: Path, name: str, words: str) -> None:
    fleet, folder = Fleet(root, max_loaded=1), str(adapter_of(tiny("llama"), 1, ("q_proj",)))
    await fleet.keeper.load("first", folder)
    with pytest.raises(InvalidRequestError, match=words):
        await fleet.keeper.load(name, folder)
    with pytest.raises(ModelNotFoundError, match="lora_name: 'nobody' is not loaded; loaded are first"):
        await fleet.keeper.unload("nobody")


def test_folders_outside_of_those_allowed_are_refused_links_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "adapters", tmp_path / "secret"
    (root / "sql").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    assert allowed_folder(str(root / "sql"), [str(root)]) == root / "sql"
    assert allowed_folder("sql", [str(outside), str(root)]) == root / "sql"
    for path in (str(outside), "../secret", "link", "", ".", "/", "sql/../../secret", "nowhere", "a\0b", "x" * 5000):
        with pytest.raises(InvalidRequestError, match="lora_path: "):
            allowed_folder(path, [str(root)])
    with pytest.raises(InvalidRequestError, match=r"list their folders in adapters_dynamic\.folders"):
        allowed_folder(str(root / "sql"), [])
