"""Servers in processes of their own, so that a crash or a hang of one is seen and ends no test."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.unit.engine.driver import make_spec
from workers import spec_line
from workers.spec import Role, WorkerSpec


class ServerProcess:
    """`told` is the JSON of its first line; `log` what it wrote to its standard error."""

    def __init__(self, module: str, line: str = "", arguments: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._line = line
        self.told: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="door-")
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as log:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=log, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self._line:
            self.process.stdin.write(self._line + "\n")
            self.process.stdin.flush()
        told = self.process.stdout.readline()
        assert told, f"it did not start: {self.log[-2000:]}"
        self.told = json.loads(told)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def num_tracebacks(self) -> int:
        """But for one of gRPC's own, of names that are no UTF-8, which it reads as Latin-1 then."""
        return self.log.count("Traceback") - self.log.count("Invalid encoding on")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None


def ingress() -> ServerProcess:
    return ServerProcess("tests.doors.ingress_process")


def worker(spec: WorkerSpec) -> ServerProcess:
    """One with the fake model."""
    return ServerProcess("workers.process", spec_line.dump(spec, "i1"))


def worker_spec(role: Role = Role.MIXED) -> WorkerSpec:
    return make_spec(role, memory_bytes=1 << 17, max_sequences=8)
