"""A process that compiles grammars: one job at a time, and it is ended when one takes too long.

The library cannot be interrupted, takes memory as a grammar asks, and holds a core meanwhile; here that harms nobody.
Jobs and answers are JSON, each after its length in four bytes, over the process's standard input and output; before a
job's stands when an alarm ends the process. It ends when its input does, with whoever started it, and by the alarm
where a job goes on although nobody is left who would end it.
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

START_TIMEOUT_S = 60.0
MAX_MEMORY_BYTES = 1 << 30
KILLED_WAIT_S = 0.2  # from the end of a process's output to its own
ALARM_S = 5.0  # after whoever asked should have ended it
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">fI")  # of a job: seconds to the alarm, and its length
_ROOT = Path(__file__).parents[3]


class CompileProcess:
    """The parent's side; for one thread at a time."""

    def __init__(self) -> None:
        """Returns once it is ready. Raises: TimeoutError, EOFError."""
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.ingress.structured.compile_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            self._receive(time.monotonic() + START_TIMEOUT_S)
        except BaseException:
            self.end()
            raise

    def ask(self, job: str, timeout_s: float) -> dict[str, str]:
        """`text` or `refusal`. Raises: TimeoutError, EOFError: it has to be ended, or has ended."""
        assert self._process.stdin is not None
        body = job.encode()
        try:
            self._process.stdin.write(_HEAD.pack(timeout_s + ALARM_S, len(body)) + body)
            self._process.stdin.flush()
        except OSError as error:
            raise EOFError from error
        answer: dict[str, str] = json.loads(self._receive(time.monotonic() + timeout_s))
        return answer

    @property
    def has_ended(self) -> bool:
        """By itself, or killed."""
        return self._process.poll() is not None

    @property
    def was_killed(self) -> bool:
        """By somebody else: its own limits end it with other signals."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(KILLED_WAIT_S) == -signal.SIGKILL
        return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _receive(self, deadline_s: float) -> bytes:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline_s))
        return self._read(length, deadline_s)

    def _read(self, num_bytes: int, deadline_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        body = bytearray()
        while len(body) < num_bytes:
            if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(descriptor, num_bytes - len(body))
            if not chunk:
                raise EOFError
            body += chunk
        return bytes(body)


def main() -> None:
    import resource

    from cluster.ingress.structured.compiled import compiled, warm_up

    os.nice(5)  # whoever decodes tokens on this core goes first
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    warm_up()
    _write(answers, b"ready")
    while head := sys.stdin.buffer.read(_HEAD.size):
        alarm_s, length = _HEAD.unpack(head)
        body = sys.stdin.buffer.read(length)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)  # no handler: it ends the process, busy as it is
        answer = json.dumps(compiled(body.decode())).encode()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _write(answers, answer)


def _write(answers: BinaryIO, body: bytes) -> None:
    answers.write(_LENGTH.pack(len(body)) + body)
    answers.flush()


if __name__ == "__main__":
    main()
