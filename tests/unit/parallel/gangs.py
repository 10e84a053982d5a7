"""Gangs for tests: the leader in this process, the other ranks in processes that are kept from one gang to the next."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from baton.errors import BatonError
from workers.parallel.gang import Gang
from workers.parallel.member import lead, open_lobby
from workers.parallel.runner import GangRunner
from workers.spec import GangSpec, Role, WorkerSpec
from workers.spec_line import dump

ROOT = Path(__file__).resolve().parents[3]


@dataclass(slots=True)
class Led:
    runner: GangRunner
    gang: Gang
    processes: list[subprocess.Popen[str]]
    failed: threading.Event
    failures: list[BatonError]
    said: list[str] = field(default_factory=list)  # by the other ranks, once the gang has ended


class RankProcesses:
    """As many as the largest gang needs, started when they are."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def take(self, count: int) -> list[subprocess.Popen[str]]:
        self._processes = [one for one in self._processes if one.poll() is None]
        while len(self._processes) < count:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.unit.parallel.rank_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
            )
        return self._processes[:count]

    @contextmanager
    def gang(
        self, spec: WorkerSpec, size: int, *, sequence: bool = False, tensor: int = 1, layer_group: int | None = None
    ) -> Iterator[Led]:
        """A gang of `size` ranks of a worker like `spec`; ends with the block. Raises: what `lead` does.

        Args:
            sequence: They divide prompts, not the model; or both where `tensor` is more than 1.
            tensor: Ranks that divide the model, for each piece of a prompt.
            layer_group: They share out a draft model's layers, of which so many attend at once.
        """
        processes = self.take(size - 1)
        gang_spec = GangSpec(tensor_parallel=size)
        if sequence:
            gang_spec = GangSpec(sequence_parallel=size // tensor, tensor_parallel=tensor)
        if layer_group is not None:
            gang_spec = GangSpec(layer_parallel=size, layer_group=layer_group)
            spec = replace(spec, role=Role.DRAFT)
        spec = replace(spec, gang=gang_spec, secret="s3cret")
        lobby = open_lobby(spec)
        for rank, process in enumerate(processes, 1):
            mine = replace(spec, gang=replace(spec.gang, rank=rank, lobby=lobby.address))
            assert process.stdin is not None
            process.stdin.write(dump(mine, "") + "\n")
            process.stdin.flush()
        failed, failures = threading.Event(), []

        def fail(error: BatonError) -> None:
            failures.append(error)
            failed.set()

        led = None
        try:
            runner, gang = lead(spec, lobby, fail)
            led = Led(runner, gang, processes, failed, failures)
            yield led
        finally:
            if led is not None:
                led.gang.close()
            said = [_line(process) for process in processes]
            if led is not None:
                led.said = said

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
