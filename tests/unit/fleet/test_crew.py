"""How a crew takes what Ray says of its workers' processes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import PlacementGroup

from baton.errors import ConfigError, UnavailableError
from baton.v1.worker_pb2 import WorkerState
from cluster.fleet import crew, launch
from cluster.fleet.crew import Crew
from cluster.fleet.generation import Generation
from cluster.fleet.needs import Need
from cluster.fleet.record import WorkerRecord
from cluster.fleet.shell import WorkerFacts
from cluster.fleet.status import RankStatus
from cluster.fleet.tick import FleetLimits, Start, WorkerPhase
from workers.spec import Role

FACTS = WorkerFacts(address="127.0.0.1:1", pid=1, node_id="n", node="127.0.0.1", cores=(0,))
LIMITS = FleetLimits(start_timeout_s=9, step_timeout_s=9, silence_timeout_s=9)
GENERATION = Generation("aaaaaa", "bbbbbb", "cccccccc")
GROUP = cast(PlacementGroup, object())
Ended = Callable[[], Awaitable[None]]
NEVER = cast(Ended, lambda: asyncio.Event().wait())


class Told(RayError):
    """As Ray wraps what an actor raised."""

    cause = UnavailableError("rank 1 is gone")


class Seats:
    """Says yes to each node but those that are refused."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused

    async def wish(self, worker: WorkerRecord, *, pinned: bool = True) -> launch.Wish:
        return launch.Wish(need=Need(resources={"CPU": 1}), targets=[], spread=False)

    async def settle(self, worker: WorkerRecord, node_ids: Sequence[str]) -> list[launch.RankPlace]:
        if self.refused:
            raise UnavailableError(self.refused)
        worker.ranks = (RankStatus(node_id=node_ids[0], node="10.0.0.2"),)
        worker.one_of_nodes = True
        return []


def crew_of(
    monkeypatch: pytest.MonkeyPatch,
    ended: Ended,
    *,
    seating: Seats | None = None,
    is_free: Callable[[], bool] = lambda: True,
    start: Callable[[], Awaitable[WorkerFacts]] | None = None,
) -> Crew:
    """With one worker, whose process answers, and of whose end `ended` tells."""

    async def started() -> WorkerFacts:
        return FACTS

    async def state() -> bytes:
        return WorkerState().SerializeToString()

    async def loading() -> tuple[int, int]:
        return 3, 7

    calls = {"start": start or started, "state": state, "ended": ended, "loading": loading}
    actor = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})
    launched = launch.Launched(actors=[actor], group=None)
    monkeypatch.setattr(launch, "launch", lambda *args, **settings: launched)
    monkeypatch.setattr(launch, "reserve", lambda *args, **settings: GROUP)
    monkeypatch.setattr(launch, "where", lambda group: ("n",) if is_free() else ())
    monkeypatch.setattr(launch, "end", lambda launched: None)
    for pause in ("PING_S", "SEEK_S", "MAX_SEEK_S"):
        monkeypatch.setattr(crew, pause, 0.01)
    made = Crew(namespace="n", worker_class="w", limits=lambda: LIMITS, wake=lambda: None, moved=lambda worker: None)
    made.start(Start(Role.MIXED, 0, 0), GENERATION, seating or Seats())  # type: ignore[arg-type]
    return made


async def test_a_worker_that_ray_cannot_reach_for_a_moment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may serve all the while; the pings' silence, or its death, will say."""
    num_asked = 0

    async def ended() -> Any:
        nonlocal num_asked
        num_asked += 1
        if num_asked < 3:
            raise ActorUnavailableError("the connection is lost", None)
        await asyncio.Event().wait()

    made = crew_of(monkeypatch, ended)
    async with asyncio.timeout(5):
        while num_asked < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [worker.phase for worker in made.workers.values()] == [WorkerPhase.READY]


async def test_a_worker_that_tells_why_it_ends_has_failed_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ended() -> Any:
        raise Told

    made = crew_of(monkeypatch, ended)
    async with asyncio.timeout(5):
        while made.live:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    (worker,) = made.workers.values()
    assert (worker.phase, worker.error) == (WorkerPhase.FAILED, "rank 1 is gone")


async def test_a_failure_is_forgotten_once_one_like_it_has_come_up_in_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    made = crew_of(monkeypatch, NEVER)
    async with asyncio.timeout(5):
        while made.workers["mixed-0"].phase is not WorkerPhase.READY:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    old = made.workers["mixed-0"]
    failed = replace(old, worker_id="mixed-0b", beside=True, phase=WorkerPhase.FAILED, entered_s=old.entered_s + 1)
    made.workers["mixed-0b"] = failed
    made.forget_unwanted({Role.MIXED: 1})
    assert list(made.workers) == ["mixed-0", "mixed-0b"], "a successor's failure: the old one served before"
    failed.entered_s = old.entered_s - 1
    made.forget_unwanted({Role.MIXED: 1})
    assert list(made.workers) == ["mixed-0"]


async def test_slots_that_are_wanted_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    made = crew_of(monkeypatch, NEVER)
    made.forget_unwanted({})
    assert list(made.workers) == ["mixed-0"], "it lives"
    made.end("mixed-0", WorkerPhase.FAILED, "killed")
    made.forget_unwanted({Role.MIXED: 1})
    assert list(made.workers) == ["mixed-0"], "it is wanted"
    made.forget_unwanted({Role.MIXED: 0})
    assert not made.workers


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_worker_waits_for_its_places_and_starts_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[bool] = []
    made = crew_of(monkeypatch, NEVER, is_free=lambda: bool(free))
    (worker,) = made.workers.values()
    await until(lambda: worker.launched is not None)
    await asyncio.sleep(0.05)
    assert worker.phase is WorkerPhase.WAITING
    free.append(True)
    await until(lambda: worker.phase is WorkerPhase.READY)
    assert [rank.node_id for rank in worker.ranks] == ["n"]


async def test_places_on_a_refused_node_are_given_back_and_sought_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seats = Seats(refused="node 10.0.0.2 is refused: it has no torch")
    given_back: list[launch.Launched] = []
    made = crew_of(monkeypatch, NEVER, seating=seats)
    monkeypatch.setattr(launch, "end", given_back.append)
    (worker,) = made.workers.values()
    await until(lambda: len(given_back) > 1)
    assert (worker.phase, worker.refusal) == (WorkerPhase.WAITING, seats.refused)
    seats.refused = ""
    await until(lambda: worker.phase is WorkerPhase.READY)


async def test_a_worker_that_waits_and_is_wanted_no_more_gives_its_request_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[launch.Launched] = []
    made = crew_of(monkeypatch, NEVER, is_free=lambda: False)
    monkeypatch.setattr(launch, "end", given_back.append)
    (worker,) = made.workers.values()
    await until(lambda: worker.launched is not None)
    made.end("mixed-0", WorkerPhase.STOPPED)
    assert [one.group for one in given_back] == [GROUP]
    assert not made.live


async def test_what_cannot_be_started_in_its_places_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **settings: object) -> launch.Launched:
        raise ValueError("the name is taken")

    given_back: list[launch.Launched] = []
    made = crew_of(monkeypatch, NEVER)
    monkeypatch.setattr(launch, "launch", refuse)
    monkeypatch.setattr(launch, "end", given_back.append)
    (worker,) = made.workers.values()
    await until(lambda: worker.phase is WorkerPhase.FAILED)
    assert [one.group for one in given_back] == [GROUP]
    assert worker.error == "the name is taken"


async def test_what_is_left_of_a_cluster_that_nobody_wants_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    left = launch.FoundWorker(
        role=Role.DECODE, index=0, beside=False, incarnation="i", launched=launch.Launched(actors=[], group=GROUP)
    )
    ended: list[launch.Launched] = []
    monkeypatch.setattr(launch, "find", lambda namespace: iter([left]))
    monkeypatch.setattr(launch, "end", ended.append)
    made = Crew(namespace="n", worker_class="w", limits=lambda: LIMITS, wake=lambda: None, moved=lambda worker: None)
    made.clear()
    assert ended == [left.launched]
    assert not made.live


async def test_a_worker_that_cannot_start_names_its_node_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(RayError):
        cause = ConfigError("model: no such folder")

    async def start() -> WorkerFacts:
        raise Missing

    made = crew_of(monkeypatch, NEVER, start=start)
    (worker,) = made.workers.values()
    await until(lambda: worker.phase is WorkerPhase.FAILED)
    assert worker.error == "model: no such folder (on node 10.0.0.2)"
    assert worker.error_is_final
