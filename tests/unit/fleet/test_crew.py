"""How a crew takes what Ray says of its workers' processes."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayError

from baton.errors import UnavailableError
from baton.v1.worker_pb2 import WorkerState
from cluster.fleet import crew, launch
from cluster.fleet.crew import Crew
from cluster.fleet.shell import WorkerFacts
from cluster.fleet.status import RankStatus
from cluster.fleet.tick import FleetLimits, WorkerPhase
from workers.spec import Role

FACTS = WorkerFacts(address="127.0.0.1:1", pid=1, node_id="n", node="127.0.0.1", cores=(0,))
LIMITS = FleetLimits(start_timeout_s=9, step_timeout_s=9, silence_timeout_s=9)
Ended = Callable[[], Awaitable[None]]


class Told(RayError):
    """As Ray wraps what an actor raised."""

    cause = UnavailableError("rank 1 is gone")


def crew_of(monkeypatch: pytest.MonkeyPatch, ended: Ended) -> Crew:
    """With one worker, whose process answers, and of whose end `ended` tells."""

    async def start() -> WorkerFacts:
        return FACTS

    async def state() -> bytes:
        return WorkerState().SerializeToString()

    calls = {"start": start, "state": state, "ended": ended}
    actor = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})
    launched = launch.Launched(actors=[actor], group=None)
    monkeypatch.setattr(launch, "launch", lambda *args, **settings: launched)
    monkeypatch.setattr(launch, "end", lambda launched: None)
    monkeypatch.setattr(crew, "PING_S", 0.01)
    made = Crew(namespace="n", worker_class="w", limits=lambda: LIMITS, wake=lambda: None)
    made.start(Role.MIXED, 0, 0, ranks=(RankStatus(),), places=[], spread=False)
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


async def test_slots_that_are_wanted_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    made = crew_of(monkeypatch, asyncio.Event().wait)  # type: ignore[arg-type]
    made.forget_unwanted({})
    assert list(made.workers) == ["mixed-0"], "it lives"
    made.end("mixed-0", WorkerPhase.FAILED, "killed")
    made.forget_unwanted({Role.MIXED: 1})
    assert list(made.workers) == ["mixed-0"], "it is wanted"
    made.forget_unwanted({Role.MIXED: 0})
    assert not made.workers
