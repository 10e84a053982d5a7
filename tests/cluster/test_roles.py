"""Roles that change on a real cluster: kept by a new worker and a new controller, undone where they cannot finish; and
two hundred answers that are what they would have been."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import baton
from baton.errors import UnavailableError
from cluster.contracts.events import EventKind
from cluster.fleet.client import ControllerClient
from cluster.host.state import ClusterState
from tests.cluster.served import ServedCluster, all_free
from tests.cluster.test_fleet import READY_S, config, is_ready, start, worker
from workers.spec import Role

pytestmark = pytest.mark.slow


@pytest.fixture
def switches(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def controller(ray_cluster: ClusterState, switches: Path, request: pytest.FixtureRequest) -> Iterator[ControllerClient]:
    client = start(request.node.name, switches)
    client.apply(config(decode=2))
    client.wait_for(is_ready, READY_S)
    yield client
    client.shutdown(drain_timeout_s=0.0)


def roles(controller: ControllerClient) -> dict[str, str]:
    return {one.worker_id: one.role for one in controller.roles()}


def counts(controller: ControllerClient) -> dict[str, tuple[int, int]]:
    return {pool.role: (pool.num_ready, pool.num_desired) for pool in controller.status().pools}


def test_a_role_outlives_its_worker_and_its_controller(controller: ControllerClient) -> None:
    assert controller.set_role("decode-1", Role.PREFILL).was is Role.DECODE
    assert counts(controller) == {"prefill": (2, 2), "decode": (1, 1)}
    assert {one.worker_id: one.role for one in controller.workers()}["decode-1"] is Role.PREFILL
    before = worker(controller.status(), "decode-1")
    os.kill(before.pid, signal.SIGKILL)
    controller.wait_for(lambda status: worker(status, "decode-1").incarnation != before.incarnation, READY_S)
    controller.wait_for(is_ready, READY_S)
    assert roles(controller)["decode-1"] == "prefill"
    ray.kill(controller.actor, no_restart=False)
    time.sleep(0.5)
    after = controller.wait_for(lambda status: status.ready and counts(controller)["prefill"] == (2, 2), READY_S)
    assert worker(after, "decode-1").role == "prefill"
    controller.apply(config(decode=3))
    controller.wait_for(is_ready, READY_S)
    assert roles(controller) == {
        "prefill-0": "prefill",
        "decode-0": "decode",
        "decode-1": "prefill",
        "decode-2": "decode",
    }
    controller.set_role("decode-1", None)
    controller.apply(config(decode=2))
    controller.wait_for(lambda status: len(status.workers) == 3, READY_S)
    assert roles(controller) == {"prefill-0": "prefill", "decode-0": "decode", "decode-1": "decode"}


def test_a_worker_that_dies_half_changed_comes_back_as_it_was(controller: ControllerClient, switches: Path) -> None:
    before = worker(controller.status(), "decode-1")
    (switches / "dies-changing").touch()
    with pytest.raises(UnavailableError, match="worker decode-1 died meanwhile; another one comes in its place"):
        controller.set_role("decode-1", Role.PREFILL)
    (switches / "dies-changing").unlink()
    controller.wait_for(
        lambda status: status.ready and worker(status, "decode-1").incarnation != before.incarnation, READY_S
    )
    assert roles(controller)["decode-1"] == "decode"
    events = [event for event in controller.events() if event.kind is EventKind.ROLE]
    assert [(event.subject, event.is_trouble) for event in events] == [("decode-1", True)]


def test_a_controller_that_dies_amid_a_change_leaves_no_role_that_was_not_kept(
    controller: ControllerClient, switches: Path
) -> None:
    (switches / "hangs-changing").touch()
    controller.actor.set_role.options(max_task_retries=0).remote("decode-1", Role.PREFILL)
    controller.wait_for(lambda status: worker(status, "decode-1").role == "prefill", READY_S)
    ray.kill(controller.actor, no_restart=False)
    time.sleep(0.5)
    (switches / "hangs-changing").unlink()
    controller.wait_for(lambda status: status.ready and worker(status, "decode-1").role == "decode", READY_S)
    assert any("set back: is decode now" in event.text for event in controller.events())


def test_two_hundred_answers_are_the_same_while_one_worker_of_three_changes_to_and_fro() -> None:
    cluster = ServedCluster(extra="router: {disaggregate_over_tokens: 32, max_retries: 0, request_timeout_s: 120}")
    prompts = [
        f"Story number {number}. " + "Once upon a time there was a king. " * (number % 9) for number in range(50)
    ]
    asked = [(prompt, 8 + 11 * (number % 7)) for number, prompt in enumerate(prompts * 4)]
    stop = threading.Event()
    said: list[str] = []

    def change() -> None:
        while not stop.is_set():
            said.extend(cluster.baton("role", "decode-1", role).stdout for role in ("prefill", "decode"))

    async def answers(client: baton.AsyncClient, gate: asyncio.Semaphore) -> list[tuple[int, ...]]:
        async def answer(number: int, prompt: str, max_tokens: int) -> tuple[int, ...]:
            async with gate:
                heat = 0.9 if number % 2 else 0.0
                done = await client.generate(
                    prompt, max_tokens=max_tokens, seed=number, temperature=heat, ignore_eos=True
                )
            return done.choices[0].token_ids

        return await asyncio.gather(*(answer(number, *one) for number, one in enumerate(asked)))

    async def both() -> None:
        async with baton.AsyncClient(cluster.grpc) as client:
            changing = threading.Thread(target=change)
            changing.start()
            under_change = await answers(client, asyncio.Semaphore(16))
            stop.set()
            await asyncio.to_thread(changing.join)
            assert await answers(client, asyncio.Semaphore(16)) == under_change

    try:
        cluster.up(prefill=1, decode=2)
        asyncio.run(both())
        assert len(said) >= 2
        cluster.wait("all free", all_free)
        assert {name: one["role"] for name, one in cluster.workers().items()}["decode-1"] == "decode"
    finally:
        cluster.down()
