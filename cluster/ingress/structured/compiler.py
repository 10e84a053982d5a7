"""Forms to grammars for one ingress replica, each text once, and never on the thread that streams answers.

Bounds: a form's size, how long it may take, how many compile at once and wait for that, and what is kept.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from baton.errors import InternalError, InvalidRequestError, OverloadedError
from cluster.config.schema import StructuredConfig
from cluster.ingress.structured.compile_process import CompileProcess
from cluster.ingress.structured.job import Job
from cluster.ingress.structured.output import StructuredOutput
from cluster.ingress.structured.vocabulary import NO_SPECIALS, Vocabulary

NUM_PROCESSES = 2
MAX_WAITING = 64  # forms that are not compiled yet
SLOW_FOR_S = 30.0  # what took too long is not tried again for so long
_ENTRY_BYTES = 200  # of one that is kept, beside its text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """A grammar's text, or why there is none."""

    text: str = ""
    refusal: str = ""
    until_s: float = float("inf")

    @property
    def num_bytes(self) -> int:
        return len(self.text) + len(self.refusal) + _ENTRY_BYTES


class GrammarCompiler:
    def __init__(self, config: StructuredConfig) -> None:
        self._config = config
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._known_bytes = 0
        self._running: dict[bytes, asyncio.Task[_Known]] = {}
        self._idle: SimpleQueue[CompileProcess] = SimpleQueue()
        self._threads = ThreadPoolExecutor(NUM_PROCESSES, thread_name_prefix="grammars")

    async def text(
        self,
        structured: StructuredOutput,
        *,
        reasoning_ends: str | None = None,
        reasoning_begins: str | None = None,
        vocabulary: Vocabulary = NO_SPECIALS,
    ) -> str:
        """For `Submit.grammar`; the arguments are those of `grammar_text`.

        Raises:
            InvalidRequestError: The form cannot be followed, or is too large or too slow to compile.
            OverloadedError: MAX_WAITING forms are waiting.
        """
        job = self._job_text(
            Job(
                structured=structured,
                reasoning_ends=reasoning_ends,
                reasoning_begins=reasoning_begins,
                vocabulary=vocabulary,
            )
        )
        key = hashlib.sha256(job.encode()).digest()
        known = self._lookup(key) or await self._compiled(key, job)
        if known.refusal:
            raise InvalidRequestError(f"{structured.named} {known.refusal}", field=structured.named.split(".")[0])
        return known.text

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        while True:
            try:
                self._idle.get_nowait().end()
            except Empty:
                return

    def _job_text(self, job: Job) -> str:
        """Raises: InvalidRequestError."""
        named, max_bytes = job.structured.named, self._config.max_size_bytes
        if job.exceeds(max_bytes):
            raise _too_large(named, f"over {max_bytes}", max_bytes)
        try:
            text = job.dump()
        except RecursionError as error:
            raise InvalidRequestError(f"{named} is nested too deeply; nest less", field=named.split(".")[0]) from error
        if len(text) > max_bytes:
            raise _too_large(named, str(len(text)), max_bytes)
        return text

    def _lookup(self, key: bytes) -> _Known | None:
        known = self._known.get(key)
        if known is None or known.until_s < time.monotonic():
            return None
        self._known.move_to_end(key)
        return known

    async def _compiled(self, key: bytes, job: str) -> _Known:
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= MAX_WAITING:
                raise OverloadedError(f"{MAX_WAITING} grammars are waiting to be compiled; try again in a second")
            task = asyncio.create_task(self._compile(key, job))
            self._running[key] = task
        return await asyncio.shield(task)  # others may wait for it too

    async def _compile(self, key: bytes, job: str) -> _Known:
        try:
            loop = asyncio.get_running_loop()
            known = await loop.run_in_executor(self._threads, self._ask, job)
            self._keep(key, known)
            return known
        finally:
            del self._running[key]

    def _keep(self, key: bytes, known: _Known) -> None:
        old = self._known.pop(key, None)
        self._known_bytes += known.num_bytes - (old.num_bytes if old is not None else 0)
        self._known[key] = known
        while self._known_bytes > self._config.cache_bytes and self._known:
            _, oldest = self._known.popitem(last=False)
            self._known_bytes -= oldest.num_bytes

    def _ask(self, job: str, *, again: bool = False) -> _Known:
        """On a thread of its own."""
        process = self._process()
        timeout_s = self._config.compile_timeout_s
        try:
            answer = process.ask(job, timeout_s)
        except (TimeoutError, EOFError) as error:
            was_killed = process.was_killed
            process.end()
            if was_killed and not again:
                return self._ask(job, again=True)
            return _failed(timeout_s, is_timeout=isinstance(error, TimeoutError))
        self._idle.put(process)
        return _Known(text=answer.get("text", ""), refusal=answer.get("refusal", ""))

    def _process(self) -> CompileProcess:
        with suppress(Empty):
            while True:
                process = self._idle.get_nowait()
                if not process.has_ended:
                    return process
                process.end()  # which closes its pipes
        try:
            return CompileProcess()
        except (OSError, TimeoutError, EOFError) as error:
            raise InternalError(f"a process that compiles grammars did not start: {error!r}") from error


def _too_large(named: str, found: str, max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"{named} has {found} bytes as JSON; this server takes at most {max_bytes} (structured.max_size): "
        "send a smaller one",
        field=named.split(".")[0],
    )


def _failed(timeout_s: float, *, is_timeout: bool) -> _Known:
    until_s = time.monotonic() + SLOW_FOR_S
    logger.warning("a grammar could not be compiled is_timeout=%s timeout_s=%s", is_timeout, timeout_s)
    if not is_timeout:
        return _Known(refusal="takes too much memory to compile; simplify it", until_s=until_s)
    return _Known(
        refusal=(
            f"takes longer than {timeout_s:g} s to compile (structured.compile_timeout_s): simplify it, for example by "
            "smaller repetitions, multipleOf or patterns"
        ),
        until_s=until_s,
    )
