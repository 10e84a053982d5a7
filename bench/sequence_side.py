"""The ranks of `bench.sequence_parallel`: processes, one per core, that run what they are told together."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Self

from bench.sequence_rank import Run
from cluster.host.ports import free_ports

STOP_TIMEOUT_S = 10.0
# Freed memory is kept: else each large tensor's pages are new ones, whose first touch costs more than the work on them.
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "OMP_NUM_THREADS": "1"}


class Ranks:
    """A context manager."""

    def __init__(self, cores: Sequence[int]) -> None:
        (port,) = free_ports("127.0.0.1", 1)
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bench.sequence_rank",
                    str(rank),
                    str(len(cores)),
                    str(core),
                    f"127.0.0.1:{port}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **ENVIRONMENT},
            )
            for rank, core in enumerate(cores)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, run: Run) -> float:
        """Seconds, of the slowest rank."""
        return max(self._ask(dataclasses.asdict(run), run.num_ranks))

    def gather_s(self, num_floats: int) -> float:
        """Of an all-gather of so many floats by each rank."""
        return max(self._ask({"gather": num_floats}, len(self._processes)))

    def fold_s(self, heads: int, d_k: int, d_v: int) -> float:
        return max(self._ask({"fold": [heads, d_k, d_v]}, 1))

    def _ask(self, told: dict[str, Any], num_ranks: int) -> list[float]:
        asked = self._processes[:num_ranks]
        for process in asked:
            assert process.stdin is not None
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in asked]

    @staticmethod
    def _answer(process: "subprocess.Popen[str]") -> float:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a rank ended with exit status {process.wait()}")
        return float(json.loads(line))
