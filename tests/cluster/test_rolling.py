"""A cluster is changed under load: no request fails, and every answer is what it must be."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster as RayNodes

from cluster.local.ray_node import ray_env
from tests.cluster.open_load import OpenLoad, make_questions
from tests.cluster.served import ServedCluster
from workers.model.registry import resolve_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUM_STREAMS = 6
CHANGES = (
    "engine: {memory: 128MiB, max_batched_tokens: 128}",  # workers
    "engine: {memory: 128MiB, max_batched_tokens: 128, block_size: 32}",  # that cannot hand over to those before
    "structured: {compile_timeout_s: 3}",  # workers back, and the ingress
    "served_name: demo",  # as at first
)


async def test_no_request_fails_while_workers_and_ingress_are_replaced() -> None:
    cluster = ServedCluster()
    try:
        cluster.up()
        folder = Path(resolve_model("demo"))
        questions = await asyncio.to_thread(make_questions, folder, (40, 120), 8, (24, 80))
        load = OpenLoad(cluster.grpc, questions, NUM_STREAMS)
        running = asyncio.create_task(load.run())
        for change in CHANGES:
            before = load.asked
            cluster.extra = change
            await asyncio.to_thread(cluster.up)
            async with asyncio.timeout(60):
                while load.asked < before + 2 * NUM_STREAMS:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert not running.done(), running.result()
        load.end()
        await running
        assert load.lost == []
        assert load.wrong == []
        ids = {name: worker["phase"] for name, worker in cluster.workers().items()}
        assert set(ids.values()) == {"ready"}
        assert len(ids) == 2
    finally:
        cluster.down()


async def test_answers_of_another_dtype_s_workers_are_not_mixed_and_none_is_lost() -> None:
    """Both compute the same greedy answers here, by a margin; that no text is continued is the router's own test."""
    cluster = ServedCluster()
    try:
        cluster.up()
        folder = Path(resolve_model("demo"))
        questions = await asyncio.to_thread(make_questions, folder, (40,), 8, (24, 80))
        load = OpenLoad(cluster.grpc, questions, NUM_STREAMS)
        running = asyncio.create_task(load.run())
        cluster.extra = "dtype: bfloat16"
        await asyncio.to_thread(cluster.up)
        load.end()
        await running
        assert load.lost == []
        status = cluster.status()
        assert status["rollout"] is None
        assert {worker["worker_id"] for worker in status["workers"]} == {"prefill-0b", "decode-0b"}
    finally:
        cluster.down()


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    """Two Ray nodes on this machine."""
    made = RayNodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2)
    yield made
    made.shutdown()  # type: ignore[no-untyped-call]


def test_a_node_is_emptied_of_workers_and_has_none_until_that_is_taken_back(nodes: RayNodes) -> None:
    env = {name: os.environ[name] for name in ray_env()} | {"RAY_ADDRESS": nodes.address}
    cluster = ServedCluster(env=env, extra="load_format: fake")
    head, other = (node.node_id for node in nodes.list_all_nodes())
    try:
        cluster.up(prefill=1, decode=2)
        assert {worker["node_id"] for worker in cluster.workers().values()} == {head, other}
        said = cluster.baton("drain", other[:8]).stdout
        assert f"({other[:8]}) is empty: safe to take down" in said
        assert {worker["node_id"] for worker in cluster.workers().values()} == {head}
        cluster.up(prefill=1, decode=3)
        assert {worker["node_id"] for worker in cluster.workers().values()} == {head}
        refused = cluster.baton("drain", head[:8], check=False)
        assert "is the head" in refused.stdout + refused.stderr
        assert f"{other[:8]}  {nodes.head_node.node_ip_address} [drained]  empty" in cluster.baton("drain").stdout
        cluster.baton("drain", other[:8], "--undo")
        cluster.up(prefill=1, decode=5)
        assert {worker["node_id"] for worker in cluster.workers().values()} == {head, other}
    finally:
        cluster.down()
