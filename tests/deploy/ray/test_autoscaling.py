"""Ray's own autoscaler and a decode pool, without a cloud: the node types of aws.yaml, started as processes."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tools.demo_cluster.hosts import HOME, ROOT, Hosts, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"no hosts here: {missing()}"),
]
HOST = "alone"  # a host of its own: Ray's fake cloud has fixed ports, and others' Ray is to be let alone
BIN = Path(sys.executable).parent
WAIT_S = 120.0
CLUSTER = """
load_format: fake
device: cpu
pools:
  prefill: {{workers: 1, resources: {{baton_prefill: 1}}, labels: {{baton.dev/pool: prefill}}}}
  decode: {{workers: {decode}, resources: {{baton_decode: 1}}, labels: {{baton.dev/pool: decode}}}}
http: {{host: 0.0.0.0, port: 8000}}
grpc: {{port: 9000}}
"""


class Cloud:
    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.home = hosts.folder / HOST
        self.env = {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": f"{hosts.address(HOST)}:6379",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }

    def start(self) -> None:
        (self.home / "cloud.yaml").write_text(yaml.safe_dump(fake_cloud(f"{self.env['RAY_ADDRESS']}")))
        head = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        command = ["ray", "start", "--head", "--port=6379", f"--node-ip-address={self.hosts.address(HOST)}"]
        options = ["--num-cpus=8", "--object-store-memory=100000000", f"--autoscaling-config={HOME}/cloud.yaml"]
        self.hosts.run(HOST, [*command, *options], env=self.env | head)

    def up(self, decode: int) -> subprocess.Popen[str]:
        """Goes on by itself: it returns when the workers are there."""
        (self.home / "cluster.yaml").write_text(CLUSTER.format(decode=decode))
        log = (self.home / "up.log").open("w")
        return subprocess.Popen(
            self.hosts.inside(HOST, ["baton", "up", "cluster.yaml"], cwd=HOME),
            env={"HOME": HOME, **self.env},
            stdout=log,
            stderr=log,
            text=True,
        )

    def baton(self, *arguments: str) -> str:
        return self.hosts.run(HOST, ["baton", *arguments], env=self.env).stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.baton("status", "--json"))
        return found

    def nodes(self) -> Counter[str]:
        """Live ones, by their pool's label."""
        code = (
            "import json, logging, ray; ray.init(logging_level=logging.ERROR); print(json.dumps([row['Labels'].get("
            "'baton.dev/pool', 'head') for row in ray.nodes() if row['Alive']]))"
        )
        said = self.hosts.run(HOST, ["python", "-c", code], env=self.env).stdout
        (line,) = [line for line in said.splitlines() if line.startswith('["')]  # the autoscaler speaks beside it
        return Counter(json.loads(line))

    def wait(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            if time.monotonic() > deadline:
                log = self.hosts.run(HOST, ["sh", "-c", "tail -n 30 /tmp/ray/session_latest/logs/monitor*"]).stdout
                raise AssertionError(f"not in {WAIT_S:g} s: {what}\n{(self.home / 'up.log').read_text()}\n{log}")
            time.sleep(1.0)


def fake_cloud(gcs_address: str) -> dict[str, Any]:
    """aws.yaml's node types without its machines and GPUs."""
    aws = yaml.safe_load((ROOT / "deploy/ray/aws.yaml").read_text())
    types = {
        name: {**kind, "node_config": {}, "resources": without_gpus(kind["resources"])}
        for name, kind in aws["available_node_types"].items()
    }
    types["ray.head.default"] = types.pop("head")
    return {
        "cluster_name": "fake",
        "max_workers": aws["max_workers"],
        "provider": {
            "type": "external",  # by its own name it would want a file that Ray's wheel does not have
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,  # all nodes have one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": gcs_address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{
            f"{when}_commands": []
            for when in (
                *("initialization", "setup", "head_setup", "worker_setup"),
                *("head_start_ray", "worker_start_ray"),
            )
        },
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def without_gpus(resources: dict[str, int]) -> dict[str, int]:
    small = {"CPU": 2, "object_store_memory": 100_000_000}
    return {name: amount for name, amount in resources.items() if name != "GPU"} | small


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    hosts = Hosts([HOST])
    try:
        hosts.start()
        made = Cloud(hosts)
        made.start()
        yield made
    finally:
        hosts.end()


def test_a_decode_pool_grows_for_groups_that_wait_and_shrinks_when_they_are_gone(cloud: Cloud) -> None:
    assert cloud.nodes() == {"head": 1}
    assert cloud.up(decode=1).wait(WAIT_S) == 0, (cloud.home / "up.log").read_text()
    assert cloud.nodes() == {"head": 1, "prefill": 1, "decode": 1}
    first = (cloud.home / "up.log").read_text()
    assert "pools.decode: 1 of 1 worker waits for {baton_decode: 1} on a node with the label" in first, first

    assert cloud.up(decode=3).wait(WAIT_S) == 0, (cloud.home / "up.log").read_text()
    cloud.wait("three decode workers", lambda: all(pool["num_ready"] == pool["num_desired"] for pool in pools(cloud)))
    assert cloud.nodes() == {"head": 1, "prefill": 1, "decode": 3}

    assert cloud.up(decode=1).wait(WAIT_S) == 0, (cloud.home / "up.log").read_text()
    cloud.wait("one decode node", lambda: cloud.nodes() == {"head": 1, "prefill": 1, "decode": 1})
    assert [(pool["role"], pool["num_ready"]) for pool in pools(cloud)] == [("prefill", 1), ("decode", 1)]

    cloud.baton("down")
    cloud.wait("the head alone", lambda: cloud.nodes() == {"head": 1})


def pools(cloud: Cloud) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.status()["pools"]
    return found
