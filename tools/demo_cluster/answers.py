"""What the laptop asks, and what comes: tokens, seconds, bytes of KV between hosts."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.demo_cluster.hosts import HOME, ROOT
from tools.demo_cluster.ray_up import LAPTOP, Cluster

PROMPTS = tuple(  # each another one from its first word on: what a worker has cached would not cross
    f"{first} day a little fox went into the forest with her friends, and they found a small red door in a tree. " * 8
    for first in ("One", "That", "Another")
)
MAX_TOKENS = 48
ASK = str(Path(__file__).with_name("ask.py"))
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    tokens: list[list[int]]  # of each stream
    seconds: float  # for all

    @classmethod
    def read(cls, printed: str) -> "Answers":
        return cls(**json.loads(printed.splitlines()[-1]))


class Asking:
    """Streams that have begun; `answers` waits for their end."""

    def __init__(self, cluster: Cluster, prompt: str, num_streams: int, *, target: str = "") -> None:
        command = [sys.executable, ASK, target or cluster.grpc, str(num_streams), str(MAX_TOKENS), prompt]
        self._said = cluster.hosts.folder / "ask.log"
        self._process = subprocess.Popen(
            cluster.hosts.inside(LAPTOP, command, cwd=HOME),
            env={"PATH": cluster.env["PATH"], "HOME": HOME, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=self._said.open("w"),
            text=True,
        )
        assert self._process.stdout is not None
        self._printed = self._process.stdout
        if self._printed.readline().strip() != "answering":
            raise AssertionError(f"no answer began: {self._said.read_text()}")

    def answers(self) -> Answers:
        """Ends by itself: each request has a deadline."""
        printed = self._printed.read()
        assert self._process.wait(TIMEOUT_S) == 0, self._said.read_text()
        return Answers.read(printed)


def ask(cluster: Cluster, prompt: str, num_streams: int = 1, *, target: str = "") -> Answers:
    return Asking(cluster, prompt, num_streams, target=target).answers()


def kv_bytes(cluster: Cluster) -> int:
    """That decode workers have received so far."""
    return sum(worker["kv_bytes_received"] for worker in cluster.workers().values())
