"""The whole of it, as a user starts it, under every attack; then it answers."""

import asyncio

import pytest

from tests.cluster.served import ServedCluster
from tests.doors import attacks

EXTRA = """\
load_format: fake
limits: {header_timeout_s: 3, body_timeout_s: 4, max_body: 1MiB}
"""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_cluster_under_every_attack_answers_afterwards() -> None:
    cluster = ServedCluster(extra=EXTRA)
    said: list[str] = []
    try:
        cluster.up()
        ports = [int(address.rstrip("/").rsplit(":", 1)[1]) for address in (cluster.http, cluster.grpc)]
        asyncio.run(attacks.all_of_them(ports[0], ports[1], max_body=1 << 20, say=said.append))
    finally:
        print("\n".join(said))
        cluster.down()
    assert said[-1].startswith("then a good request of each kind: answered")
    assert "HANG" not in "".join(said)
