"""What the controller knows, ten times a second, from a process of its own: `python -m tests.cluster.status_feed`.

A test's own process may be connected to another Ray, and a `baton status` costs a start each.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baton.errors import UnavailableError
from cluster.host import state
from cluster.local import ray_node as local_ray

EVERY_S = 0.1
Workers = dict[str, dict[str, Any]]  # by worker id, as `baton status --json` has them


class StatusFeed:
    """Of the cluster whose BATON_HOME is `home`, from construction to `close`."""

    def __init__(self, home: Path) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.status_feed"],
            env=env | {"BATON_HOME": str(home)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.workers: Workers = {}
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.wait("a first status", bool)

    def wait(self, what: str, is_so: Callable[[Workers], bool], timeout_s: float = 60) -> Workers:
        deadline = time.monotonic() + timeout_s
        while not is_so(workers := self.workers):
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}; workers: {workers}"
            assert self._process.poll() is None, "the feed has ended"
            time.sleep(0.02)
        return workers

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.workers = {worker["worker_id"]: worker for worker in json.loads(line)}


def main() -> None:
    cluster = state.read()
    assert cluster is not None, "no cluster runs"
    local_ray.connect(cluster, namespace="baton")
    from cluster.fleet.client import ControllerClient  # it imports Ray, for which `connect` sets the environment

    while True:
        controller = ControllerClient.find()
        with contextlib.suppress(UnavailableError):
            if controller is not None:
                print(json.dumps([dataclasses.asdict(one) for one in controller.status().workers]), flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
