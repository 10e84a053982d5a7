"""A cluster of the soak's own: started and ended by `baton`, its processes found by what they are."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster.host.state import ClusterState
from cluster.local import ray_node
from tools.soak.watch import ROOT, View, workers_of

CONFIG = """
model: demo
dtype: float32
pools:
  prefill: {workers: 2}
  decode: {workers: 2}
  draft: {workers: 1, model: demo-draft}
engine: {memory: 24MiB, max_batched_tokens: 128}
kv: {lease_s: 5}
router: {disaggregate_over_tokens: 32, max_retries: 6, request_timeout_s: 120}
http: {replicas: 2}
logging: {format: json}
metrics: {vllm_names: true}
tracing: {otlp_endpoint: "http://127.0.0.1:9", sample_ratio: 0.5}  # where nobody listens: that is to cost nothing
"""
COMMAND_TIMEOUT_S = 300.0
TITLES = {  # of processes that Ray renames -> kind
    "ray::ServeReplica": "ingress replica",
    "ray::SteadyHAProxyManager": "HAProxy manager",
    "ray::ServeController": "Serve controller",
    "ray::Controller": "controller",
    "ray::ProxyActor": "proxy",
    "ray::WorkerShell": "worker",
    "ray::DashboardAgent": "Ray agent",
    "ray::RuntimeEnvAgent": "Ray agent",
    "ray::IDLE": "idle",
}
FILES = {"haproxy": "HAProxy", "gcs_server": "GCS", "raylet": "raylet"}  # last part of a program's path -> kind
WORDS = {
    "cluster.local.head": "keeper",
    "dashboard.py": "dashboard",
    "compile_process": "grammar compiler",
}  # an argument's end


class CommandError(Exception):
    """A `baton` command failed."""


class SoakCluster:
    """`folder` has all that is its own: BATON_HOME, and what its processes write as temporary files beside that."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config: dict[str, Any] = {**config, "http": {**config.get("http", {}), "port": 0}, "grpc": {"port": 0}}
        self.folder = short_folder()
        self.home = self.folder / "home"
        self.home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BATON_"))}
        python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.env = kept | {"BATON_HOME": str(self.home), "TMPDIR": str(self.folder), "PYTHONPATH": python_path}
        self.http = self.grpc = ""
        self.prefix: tuple[str, ...] = ()  # before every command that is to run where the cluster does

    @property
    def has_haproxy(self) -> bool:
        """Ray of ours has it before the ingress; somebody else's has Serve's own proxy."""
        return True

    @property
    def num_replicas(self) -> int:
        count: int = self.config["http"].get("replicas", 1)
        return count

    @property
    def served_name(self) -> str:
        name: str = self.config.get("served_name") or self.config["model"]
        return name.rsplit("/", 1)[-1]

    def has(self, role: str) -> int:
        """How many workers of a pool it is to have."""
        count: int = self.config.get("pools", {}).get(role, {}).get("workers", 0)
        return count

    async def baton(self, *arguments: str) -> str:
        """What a command prints. Raises: CommandError."""
        done = await asyncio.to_thread(
            subprocess.run,
            [*self.prefix, sys.executable, "-m", "cluster.cli", *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise CommandError(f"baton {' '.join(arguments)}: {last}")
        return done.stdout

    async def up(self, **changes: Any) -> None:
        """`changes`: sections that replace the config's, now and for good."""
        self.config |= changes
        path = self.home / "cluster.yaml"
        path.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        await self.baton("up", str(path))
        state = self.state()
        self.http, self.grpc = state.http, state.grpc

    async def down(self) -> None:
        await self.baton("down")

    def state(self) -> ClusterState:
        return ClusterState(**json.loads((self.home / "cluster.json").read_text(encoding="utf-8")))

    def processes(self, view: View) -> dict[int, str]:
        """Pid -> kind, of all that runs for it; a worker's is its pool, with its rank where it is not the first."""
        names = worker_names(view)
        found = {}
        for process in self.own_processes():
            try:
                kind = names.get(process.pid) or kind_of(process.cmdline())
            except psutil.Error:
                continue
            found[process.pid] = kind
        return found

    def own_processes(self) -> list[psutil.Process]:
        return ray_node.processes(self.state())

    def pids(self, kind: str, view: View) -> list[int]:
        return sorted(pid for pid, found in self.processes(view).items() if found == kind)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def short_folder() -> Path:
    """A new one; HAProxy's sockets, deep below, leave few characters for its name."""
    while True:
        path = Path(tempfile.gettempdir()) / f"s{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path


def worker_names(view: View) -> dict[int, str]:
    """Pid -> pool, and rank. A worker of another role stays of its pool: it is the same process."""
    return {
        rank["pid"]: pool_of(worker["worker_id"]) + (f" rank {number}" if number else "")
        for worker in workers_of(view)
        for number, rank in enumerate(worker["ranks"])
        if rank["pid"]
    }


def pool_of(worker_id: str) -> str:
    return worker_id.rpartition("-")[0]


def kind_of(command: list[str]) -> str:
    """By a process's command line."""
    first = command[0] if command else ""
    for title, kind in TITLES.items():
        if first.startswith(title):
            return kind
    if (program := first.rsplit("/", 1)[-1]) in FILES:
        return FILES[program]
    return next((kind for word, kind in WORDS.items() if any(part.endswith(word) for part in command)), "other")
