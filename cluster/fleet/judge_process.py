"""The controller's side of the process that simulates; see `cluster.judging.process`, which is named, not imported:
the simulator runs this fleet's own `tick`.
"""

import asyncio
import os
import pickle
import struct
import sys
from contextlib import suppress
from pathlib import Path

from cluster.planner.online.judge import Answer, Question

ALARM_S = 5.0  # after the parent gave up, where nobody is left to end it
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">fI")
_MODULE = "cluster.judging.process"
_ROOT = Path(__file__).parents[2]


class JudgeError(Exception):
    """No answer: it took too long, or the process ended."""


class JudgeProcess:
    """Started with the first question; for one question at a time."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def ask(self, question: Question) -> tuple[Answer, float]:
        """The answer, and the CPU seconds that it took. Raises: JudgeError."""
        body = pickle.dumps(question)
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                process.stdin.write(_HEAD.pack(self._timeout_s + ALARM_S, len(body)) + body)
                await process.stdin.drain()
                (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
                answer: tuple[Answer, float] = pickle.loads(  # noqa: S301, of our own child
                    await process.stdout.readexactly(length)
                )
        except TimeoutError as error:
            await self.close()
            raise JudgeError(f"no answer within {self._timeout_s:g} s") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise JudgeError("the process that simulates ended; the controller's log tells why") from error
        return answer

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process
