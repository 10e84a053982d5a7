"""A real cluster for tests: `baton up` in a process of its own, the demo model in float32, ports from the OS."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.host.state import ClusterState

CONFIG = """\
model: {model}
served_name: demo
dtype: float32
pools:
  prefill: {{workers: {prefill}}}
  decode: {{workers: {decode}}}
engine: {{memory: 128MiB, max_batched_tokens: 256}}
kv: {{lease_s: 5}}
router: {{disaggregate_over_tokens: 32, max_retries: 6, request_timeout_s: 120}}
http: {{port: 0}}
grpc: {{port: 0}}
"""
COMMAND_TIMEOUT_S = 150


class ServedCluster:
    """`folder` is its BATON_HOME; two may run side by side."""

    def __init__(
        self, model: str = "demo", *, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None, extra: str = ""
    ) -> None:
        """
        Args:
            prefix: Before every command: `ip netns exec NAME`.
            env: Of every command, beside this process's.
            extra: YAML that replaces sections of CONFIG.
        """
        self.prefix = prefix
        self.env = dict(env or {})
        self.extra = extra
        self.folder = Path(tempfile.mkdtemp(prefix="bt-"))
        self.model = model
        self.http = self.grpc = ""

    def baton(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One `baton` command, to its end."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "cluster.cli", *arguments],
            env=env | {"BATON_HOME": str(self.folder), "BATON_DEBUG": "1"} | self.env,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"baton {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self, prefill: int = 1, decode: int = 1) -> None:
        config = self.folder / "cluster.yaml"
        sections = yaml.safe_load(CONFIG.format(model=self.model, prefill=prefill, decode=decode))
        config.write_text(yaml.safe_dump(sections | (yaml.safe_load(self.extra) or {})))
        self.baton("up", str(config))
        state = self.state()
        self.http, self.grpc = state.http, state.grpc

    def state(self) -> ClusterState:
        """As `up` left it."""
        return ClusterState(**json.loads((self.folder / "cluster.json").read_text()))

    def down(self) -> None:
        self.baton("down")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.baton("status", "--json").stdout)
        return found

    def workers(self) -> dict[str, dict[str, Any]]:
        return {worker["worker_id"]: worker for worker in self.status()["workers"]}

    def kill(self, worker_id: str) -> int:
        """SIGKILL; returns the pid that was."""
        pid: int = self.workers()[worker_id]["pid"]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait(self, what: str, is_so: Callable[[dict[str, dict[str, Any]]], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so(workers := self.workers()):
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}; workers: {workers}"
            time.sleep(0.3)


def all_free(workers: dict[str, dict[str, Any]]) -> bool:
    """Every worker is ready, and holds no block, slot for a state, request or transfer."""
    return all(
        worker["phase"] == "ready"
        and worker["num_blocks"] == worker["num_free_blocks"] > 0
        and worker["num_states"] == worker["num_free_states"]
        and not (worker["num_running"] or worker["num_waiting"] or worker["num_transfers"])
        for worker in workers.values()
    )
