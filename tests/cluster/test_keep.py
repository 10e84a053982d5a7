"""`baton keep` with both doors locked, on a Ray of the user's: what the chart runs beside Ray's head, and its test."""

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
import yaml

from cluster.host.ports import free_port
from cluster.host.state import ClusterState
from cluster.local import ray_node
from tests.cluster.served import ServedCluster
from tests.doors.certificates import Issued, issue
from tests.doors.handshakes import client_context

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
HELM_TEST = ROOT / "helm/baton/files/generate_token.py"
WAIT_S = 120.0


class Kept(ServedCluster):
    """Its config in a file, and the process that keeps it so."""

    def __init__(self, address: str, issued: Issued, keys: Path) -> None:
        super().__init__(env=ray_node.ray_env() | {"RAY_ADDRESS": address})
        self.issued = issued
        self.port = free_port("0.0.0.0")
        self.tree = {
            "model": "demo",
            "load_format": "fake",
            "http": {"host": "0.0.0.0", "port": self.port},
            "grpc": {"port": free_port("0.0.0.0")},
            "tls": asdict(issued.tls()),
            "auth": {"keys_file": str(keys)},
        }
        self.file, self.log = self.folder / "kept.yaml", self.folder / "keep.log"
        self.keeper: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.keeper = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "keep", str(self.file), "--replace"],
            env=env | {"BATON_HOME": str(self.folder)} | self.env,
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
        )

    def write(self, **sections: object) -> None:
        self.tree |= sections
        self.file.write_text(yaml.safe_dump(self.tree))

    def until(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert self.keeper is not None
            assert self.keeper.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not in {WAIT_S:g} s: {what}\n{self.log.read_text()}"
            time.sleep(0.2)

    def is_ready(self) -> bool:
        return (self.folder / "ready").exists()

    def end(self) -> None:
        assert self.keeper is not None
        self.keeper.send_signal(signal.SIGTERM)
        self.keeper.wait(30)


@pytest.fixture
def kept(ray_cluster: ClusterState, tmp_path: Path) -> Iterator[Kept]:
    made = Kept(ray_cluster.address, issue(tmp_path), tmp_path / "keys.yaml")
    try:
        yield made
    finally:
        if made.keeper is not None and made.keeper.poll() is None:
            made.end()
        made.baton("down", check=False)


def test_it_locks_the_doors_follows_its_file_and_leaves_what_runs(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = kept.baton("key", "create", "alice", "--file", str(tmp_path / "keys.yaml")).stdout.strip()
    kept.write()
    kept.keep()
    kept.until("ready", kept.is_ready)
    url = f"https://127.0.0.1:{kept.port}"
    monkeypatch.setenv("BATON_URL", url)
    monkeypatch.setenv("BATON_API_KEY", key)
    runpy.run_path(str(HELM_TEST))
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{kept.port}/health")

    kept.write(limits={"max_body": "2KiB"})
    kept.until("starting anew", lambda: "starting anew: limits.max_body" in kept.log.read_text())
    kept.until("ready again", kept.is_ready)
    context = client_context(kept.issued)
    large = {"prompt": "a" * 4096, "max_tokens": 1}
    answer = httpx.post(f"{url}/v1/completions", json=large, headers={"authorization": f"Bearer {key}"}, verify=context)
    assert answer.status_code == 413

    before = {name: worker["pid"] for name, worker in kept.workers().items()}
    kept.end()
    assert not kept.is_ready()
    runpy.run_path(str(HELM_TEST))
    kept.keep()
    kept.until("ready, by the next keeper", kept.is_ready)
    assert {name: worker["pid"] for name, worker in kept.workers().items()} == before
