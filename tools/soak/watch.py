"""The feed from the side of the soak: the newest view, when it came, and questions to it."""

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 90.0
MAX_LINE = 4 << 20  # bytes, of one view
View = Mapping[str, Any]  # as `feed` writes it


class FeedError(Exception):
    """What the cluster said to what it was asked to do."""


class Watch:
    """Of the cluster that `env` names. Restarts the feed where it ends: what it is connected to may be killed."""

    def __init__(self, env: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self._env = dict(env)
        self._prefix = prefix
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.view: View = {}
        self.view_s = 0.0  # monotonic
        self.events: list[dict[str, Any]] = []
        self.num_starts = 0

    async def __aenter__(self) -> "Watch":
        self._reading = asyncio.create_task(self._run())
        try:
            await self.wait("a first status", lambda view: "workers" in view, START_TIMEOUT_S)
        except FeedError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._reading is not None
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def wait(self, what: str, is_so: Callable[[View], bool], timeout_s: float) -> View:
        """Raises: FeedError: it did not become so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_so(self.view):
                    self._changed.clear()
                    await self._changed.wait()
        if not is_so(self.view):
            raise FeedError(f"not in {timeout_s:g} s: {what}")
        return self.view

    async def do(self, name: str, *arguments: Any, timeout_s: float = 60.0) -> Any:
        """Raises: FeedError: it was refused, or did not happen in time."""
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        assert self._process is not None
        assert self._process.stdin is not None
        line = json.dumps({"number": number, "do": name, "arguments": arguments})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise FeedError(f"{name}{arguments} did not end in {timeout_s:g} s") from None
        finally:
            del self._asked[number]

    async def _run(self) -> None:
        while True:
            self.num_starts += 1
            self._process = await asyncio.create_subprocess_exec(
                *(*self._prefix, sys.executable, "-m", "tools.soak.feed"),
                env=self._env,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MAX_LINE,
            )
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                self._take(line)
            await self._process.wait()
            await asyncio.sleep(1.0)

    def _take(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return  # a library's own words
        if "reply" not in said:
            self._take_view(said)
        elif (future := self._asked.get(said["reply"])) is not None and not future.done():
            if "error" in said:
                future.set_exception(FeedError(said["error"]))
            else:
                future.set_result(said["value"])

    def _take_view(self, view: View) -> None:
        self.view, self.view_s = view, time.monotonic()
        self.events += view.get("events", ())
        self._changed.set()


def workers_of(view: View) -> list[Mapping[str, Any]]:
    workers: list[Mapping[str, Any]] = view.get("workers", [])
    return workers


def pids_of(view: View) -> set[int]:
    """Of workers' ranks and of actors with a name, as controller and Ray know them."""
    ranks = {rank["pid"] for worker in workers_of(view) for rank in worker["ranks"]}
    return ranks | set(view.get("actors", {}).values())


def is_whole(view: View, num_replicas: int) -> bool:
    """Every pool has all its workers, and as many ingress replicas ask for the table as there are to be."""
    pools = view.get("pools", ())
    return (
        bool(pools)
        and all(pool["num_ready"] == pool["num_desired"] for pool in pools)
        and all(worker["phase"] == "ready" for worker in workers_of(view))
        and view.get("num_ingress_replicas") == num_replicas
    )


def is_idle(view: View) -> bool:
    """No worker holds a block, a slot, a request or a transfer."""
    return bool(workers_of(view)) and all(
        worker["num_free_blocks"] == worker["num_blocks"]
        and worker["num_free_states"] == worker["num_states"]
        and not (worker["num_running"] or worker["num_waiting"] or worker["num_transfers"])
        and not worker["num_quarantined_blocks"]
        for worker in workers_of(view)
    )
