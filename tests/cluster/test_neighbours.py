"""Two clusters on one machine: no request of one ever comes to the other."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

import baton
from tests.cluster.served import ServedCluster
from tests.cluster.test_replicas import replica_pids

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
NAMES = ("here", "there")
EXTRA = """
served_name: {name}
load_format: fake
pools: {{mixed: {{workers: 1}}}}
http: {{port: 0, replicas: 2}}
"""


@pytest.fixture(scope="module")
def clusters() -> Iterator[list[ServedCluster]]:
    both = [ServedCluster(extra=EXTRA.format(name=name)) for name in NAMES]
    try:
        for cluster in both:
            cluster.up()
        yield both
    finally:
        for cluster in both:
            cluster.down()


async def names_of(cluster: ServedCluster, count: int) -> set[str]:
    """What models a client is told of, over as many connections."""

    async def ask() -> str:
        async with baton.AsyncClient(cluster.grpc, timeout_s=20, max_retries=5) as client:
            return (await client.models())[0].id

    return set(await asyncio.gather(*(ask() for _ in range(count))))


async def test_clients_of_one_cluster_never_reach_the_other(clusters: list[ServedCluster]) -> None:
    for cluster, name in zip(clusters, NAMES, strict=True):
        assert await names_of(cluster, 40) == {name}


async def test_nor_do_they_while_replicas_of_both_die_and_are_replaced(clusters: list[ServedCluster]) -> None:
    for cluster in clusters:
        os.kill(replica_pids(cluster)[0], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(len(replica_pids(cluster)) == 2 for cluster in clusters):
        for cluster, name in zip(clusters, NAMES, strict=True):
            assert await names_of(cluster, 4) == {name}
    for cluster, name in zip(clusters, NAMES, strict=True):
        assert await names_of(cluster, 40) == {name}
