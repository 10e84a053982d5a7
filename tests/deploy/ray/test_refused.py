"""Two hosts, the second with another version of Baton: no worker starts there, and everybody is told why."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.demo_cluster.hosts import HOME, ROOT, Hosts, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=f"no hosts here: {missing()}"),
]
HEAD, OTHER = "head", "other"
BIN = Path(sys.executable).parent
CLUSTER = """
load_format: fake
device: cpu
pools: {prefill: {workers: 1}, decode: {workers: 1, resources: {baton_decode: 1}}}
http: {host: 0.0.0.0, port: 8000}
grpc: {port: 9000}
"""
WHY = "is refused: it has Baton 9.9.9, and the head has 0.1.0; install the same on both"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    two = Hosts([HEAD, OTHER])
    try:
        two.start()
        yield two
    finally:
        two.end()


def env(hosts: Hosts, *paths: str) -> dict[str, str]:
    return {
        "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join([*paths, str(ROOT)]),
        "RAY_ADDRESS": f"{hosts.address(HEAD)}:6379",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def start_ray(hosts: Hosts, host: str, *options: str, paths: tuple[str, ...] = ()) -> None:
    command = ["ray", "start", f"--node-ip-address={hosts.address(host)}", "--object-store-memory=100000000"]
    hosts.run(host, [*command, "--num-cpus=4", *options], env=env(hosts, *paths))


def test_a_node_with_another_baton_is_refused_and_used_once_it_has_the_same(hosts: Hosts) -> None:
    newer = hosts.folder / OTHER / "newer"
    (newer / "baton_serve-9.9.9.dist-info").mkdir(parents=True)
    (newer / "baton_serve-9.9.9.dist-info/METADATA").write_text("Name: baton-serve\nVersion: 9.9.9\n")
    decode = '--resources={"baton_decode": 1}'
    start_ray(hosts, HEAD, "--head", "--port=6379", "--include-dashboard=false")
    start_ray(hosts, OTHER, f"--address={hosts.address(HEAD)}:6379", decode, paths=(f"{HOME}/newer",))
    (hosts.folder / HEAD / "cluster.yaml").write_text(CLUSTER)
    log = hosts.folder / "up.log"
    up = subprocess.Popen(
        hosts.inside(HEAD, ["baton", "up", "cluster.yaml"], cwd=HOME),
        env={"HOME": HOME, **env(hosts)},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    address = hosts.address(OTHER)
    deadline = time.monotonic() + 120
    while f"{{baton_decode: 1}}; node {address} has it and {WHY}" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        assert up.poll() is None, log.read_text()
        time.sleep(0.5)
    status = json.loads(hosts.run(HEAD, ["baton", "status", "--json"], env=env(hosts)).stdout)
    assert status["refused"] == [f"node {address} {WHY}"]
    assert {worker["worker_id"]: worker["phase"] for worker in status["workers"]}["decode-0"] == "waiting"

    hosts.run(OTHER, ["ray", "stop"], env=env(hosts))
    start_ray(hosts, OTHER, f"--address={hosts.address(HEAD)}:6379", decode)
    assert up.wait(120) == 0, log.read_text()
    hosts.run(HEAD, ["baton", "down"], env=env(hosts))
