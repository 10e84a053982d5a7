"""The controller over real Ray actors with fake workers."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from baton.errors import ConfigError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig, HealthConfig, PoolConfig, PoolsConfig
from cluster.fleet.client import ControllerClient
from cluster.fleet.status import FleetStatus, WorkerStatus
from cluster.host.state import ClusterState

READY_S = 60.0


@pytest.fixture
def switches(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def controller(ray_cluster: ClusterState, switches: Path, request: pytest.FixtureRequest) -> Iterator[ControllerClient]:
    client = start(request.node.name, switches)
    yield client
    client.shutdown(drain_timeout_s=0.0)


def start(namespace: str, switches: Path) -> ControllerClient:
    return ControllerClient.start(
        "secret",
        namespace=namespace,
        worker_class="tests.cluster.fake_worker:FakeWorker",
        worker_env={"FAKE_WORKERS": str(switches)},
    )


def config(prefill: int = 1, decode: int = 1) -> BatonConfig:
    pools = PoolsConfig(prefill=PoolConfig(workers=prefill), decode=PoolConfig(workers=decode))
    return BatonConfig(model="demo", pools=pools, health=HealthConfig(step_timeout_s=5.0, drain_timeout_s=20.0))


def worker(status: FleetStatus, worker_id: str) -> WorkerStatus:
    return next(one for one in status.workers if one.worker_id == worker_id)


def is_ready(status: FleetStatus) -> bool:
    return status.ready


def test_both_pools_come_up_with_cores_of_their_own(controller: ControllerClient, switches: Path) -> None:
    plan = controller.apply(config())
    assert plan.config.device in ("cpu", "cuda")
    assert plan.config.dtype != "auto"
    status = controller.wait_for(is_ready, READY_S)
    assert [(pool.role, pool.num_ready) for pool in status.pools] == [("prefill", 1), ("decode", 1)]
    assert {entry.worker_id for entry in controller.workers()} == {"prefill-0", "decode-0"}
    prefill, decode = worker(status, "prefill-0"), worker(status, "decode-0")
    if len(os.sched_getaffinity(0)) >= 2:
        assert set(prefill.cores).isdisjoint(decode.cores)
    assert (switches / "env-decode-0").read_text() == str(len(decode.cores))
    assert prefill.pid != decode.pid


def test_a_killed_worker_is_seen_within_two_seconds_and_replaced(controller: ControllerClient) -> None:
    controller.apply(config())
    before = worker(controller.wait_for(is_ready, READY_S), "decode-0")
    os.kill(before.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    controller.wait_for(lambda status: worker(status, "decode-0").incarnation != before.incarnation, READY_S)
    assert time.monotonic() - killed_s < 2.0
    after = worker(controller.wait_for(is_ready, READY_S), "decode-0")
    assert after.pid != before.pid
    assert after.num_failures == 1
    assert after.cores == before.cores


def test_a_worker_that_makes_no_progress_is_killed_and_replaced(controller: ControllerClient, switches: Path) -> None:
    controller.apply(config())
    before = worker(controller.wait_for(is_ready, READY_S), "prefill-0")
    (switches / f"wedged-{before.incarnation}").touch()
    controller.wait_for(
        lambda status: status.ready and worker(status, "prefill-0").incarnation != before.incarnation, READY_S
    )
    assert not psutil.pid_exists(before.pid)


def test_fewer_workers_are_drained_and_more_are_started_while_the_rest_serves(
    controller: ControllerClient, switches: Path
) -> None:
    controller.apply(config(decode=2))
    first = controller.wait_for(is_ready, READY_S)
    (switches / "busy").touch()
    controller.apply(config(decode=1))
    controller.wait_for(lambda status: worker(status, "decode-1").phase == "draining", READY_S)
    assert [(entry.worker_id, entry.draining) for entry in controller.workers() if entry.draining] == [
        ("decode-1", True)
    ]
    (switches / "busy").unlink()
    controller.wait_for(lambda status: all(one.worker_id != "decode-1" for one in status.workers), READY_S)
    controller.apply(config(prefill=2))
    last = controller.wait_for(is_ready, READY_S)
    assert worker(last, "decode-0").incarnation == worker(first, "decode-0").incarnation
    assert (switches / f"stopped-{worker(first, 'decode-1').incarnation}").exists()


def test_a_key_that_needs_a_restart_is_refused_by_name(controller: ControllerClient) -> None:
    controller.apply(config())
    with pytest.raises(
        ConfigError, match=r"http\.host: .* cannot become '0\.0\.0\.0' while the cluster runs.*baton down"
    ):
        controller.apply(replace(config(), http=replace(config().http, host="0.0.0.0")))


def with_blocks(block_size: int) -> BatonConfig:
    return replace(config(), engine=replace(config().engine, block_size=block_size))


def has_ended(status: FleetStatus) -> bool:
    return status.ready and status.rollout is None


def test_workers_with_another_config_take_over_from_those_that_serve(controller: ControllerClient) -> None:
    controller.apply(config())
    before = controller.wait_for(is_ready, READY_S)
    controller.apply(with_blocks(32))
    num_ready: list[int] = []

    def is_over(status: FleetStatus) -> bool:
        num_ready.append(min(pool.num_ready for pool in status.pools))
        return has_ended(status)

    after = controller.wait_for(is_over, READY_S)
    assert min(num_ready) >= 1
    assert {one.worker_id for one in after.workers} == {"prefill-0b", "decode-0b"}
    assert worker(after, "decode-0b").cores == worker(before, "decode-0").cores
    assert not any(psutil.pid_exists(one.pid) for one in before.workers)
    controller.apply(replace(config(), pools=loads("pools: {mixed: {workers: 1}}").pools))
    mixed = controller.wait_for(has_ended, READY_S)
    assert "mixed-0" in {one.worker_id for one in mixed.workers}


def test_workers_that_do_not_come_up_halt_the_change_and_the_old_file_takes_it_back(
    controller: ControllerClient, switches: Path
) -> None:
    controller.apply(config())
    before = controller.wait_for(is_ready, READY_S)
    (switches / "broken").touch()
    controller.apply(with_blocks(32))
    halted = controller.wait_for(lambda status: status.rollout is not None and bool(status.rollout.halted), READY_S)
    assert halted.ready
    assert halted.rollout is not None
    assert "does not come up: model: no weights in the folder; give another" in halted.rollout.halted
    (switches / "broken").unlink()
    controller.apply(config())
    after = controller.wait_for(has_ended, READY_S)
    assert {one.incarnation for one in after.workers} == {one.incarnation for one in before.workers}
    assert any(event.is_trouble and "is halted" in event.text for event in controller.events())


def test_an_unknown_model_is_refused_before_anything_starts(controller: ControllerClient) -> None:
    with pytest.raises(ConfigError, match="model: '/nowhere'"):
        controller.apply(replace(config(), model="/nowhere"))
    assert controller.status().workers == ()


def test_a_wrong_config_found_by_a_worker_is_told_as_it_is(controller: ControllerClient, switches: Path) -> None:
    (switches / "broken").touch()
    controller.apply(config())
    status = controller.wait_for(lambda status: any(one.error_is_final for one in status.workers), READY_S)
    failed = next(one for one in status.workers if one.error_is_final)
    assert failed.error == "model: no weights in the folder; give another"


def test_a_new_controller_adopts_the_workers_of_the_last_one(controller: ControllerClient) -> None:
    controller.apply(config())
    before = controller.wait_for(is_ready, READY_S)
    ray.kill(controller.actor, no_restart=False)
    time.sleep(0.5)
    after = controller.wait_for(is_ready, READY_S)
    assert {(one.incarnation, one.pid, one.cores) for one in after.workers} == {
        (one.incarnation, one.pid, one.cores) for one in before.workers
    }
    os.kill(worker(after, "decode-0").pid, signal.SIGKILL)
    controller.wait_for(
        lambda status: (
            status.ready and worker(status, "decode-0").incarnation != worker(before, "decode-0").incarnation
        ),
        READY_S,
    )


def test_the_ranks_of_a_worker_are_adopted_together_and_replaced_together(controller: ControllerClient) -> None:
    pools = loads("pools: {mixed: {workers: 1, tensor_parallel: 2}}").pools
    controller.apply(replace(config(), pools=pools))
    before = worker(controller.wait_for(is_ready, READY_S), "mixed-0")
    assert len({rank.pid for rank in before.ranks}) == 2
    ray.kill(controller.actor, no_restart=False)
    time.sleep(0.5)
    adopted = worker(controller.wait_for(is_ready, READY_S), "mixed-0")
    assert adopted.ranks == before.ranks
    os.kill(before.ranks[1].pid, signal.SIGKILL)
    controller.wait_for(lambda status: worker(status, "mixed-0").incarnation != before.incarnation, READY_S)
    after = worker(controller.wait_for(is_ready, READY_S), "mixed-0")
    assert after.error.startswith("rank 1: its process ended by itself")
    assert not any(psutil.pid_exists(rank.pid) for rank in before.ranks)
    assert {rank.pid for rank in after.ranks}.isdisjoint(rank.pid for rank in before.ranks)


def test_a_shutdown_leaves_no_worker_and_no_placement_group(ray_cluster: ClusterState, switches: Path) -> None:
    client = start("shutdown", switches)
    client.apply(config())
    status = client.wait_for(is_ready, READY_S)
    client.shutdown(drain_timeout_s=5.0)
    deadline = time.monotonic() + 10.0
    while any(psutil.pid_exists(one.pid) for one in status.workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(one.pid) for one in status.workers)
    assert all((switches / f"stopped-{one.incarnation}").exists() for one in status.workers)
    names = [entry["name"] for entry in ray.util.list_named_actors(True) if entry["namespace"] == "shutdown"]
    assert names == []
    groups = [row for row in ray.util.placement_group_table().values() if row["name"].startswith("shutdown/")]
    assert all(row["state"] == "REMOVED" for row in groups)


def test_a_pool_that_no_node_has_room_for_waits_and_says_for_what_while_others_serve(
    controller: ControllerClient,
) -> None:
    changed = config()
    decode = replace(changed.pools.decode, resources={"no_such_resource": 1.0}, labels={"baton.dev/pool": "decode"})
    controller.apply(replace(changed, pools=replace(changed.pools, decode=decode)))
    status = controller.wait_for(lambda status: any(pool.waits for pool in status.pools), READY_S)
    assert next(pool.waits for pool in status.pools if pool.waits) == (
        "pools.decode: 1 of 1 worker waits for {no_such_resource: 1} on a node with the label "
        "{baton.dev/pool: decode}; no node has it"
    )
    assert worker(status, "decode-0").phase == "waiting"
    controller.wait_for(lambda status: worker(status, "prefill-0").phase == "ready", READY_S)
    assert not controller.status().answers
