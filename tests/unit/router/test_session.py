"""One link to one worker: up, lost once, up again."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

from baton.errors import UnauthenticatedError
from baton.v1.worker_pb2 import Abort, FromWorker, ToWorker
from cluster.router.session import LinkState, WorkerLink
from cluster.router.workers import WorkerEntry
from tests.fake_worker import SECRET, FakeWorker
from workers.spec import Role


class _Log:
    """What a link told, in order."""

    def __init__(self) -> None:
        self.messages: list[FromWorker] = []
        self.losses: list[str] = []
        self.num_refusals = 0

    def message(self, link: WorkerLink, message: FromWorker) -> None:
        self.messages.append(message)

    def down(self, link: WorkerLink, reason: str) -> None:
        self.losses.append(reason)

    def refused(self) -> None:
        self.num_refusals += 1


@contextlib.asynccontextmanager
async def _worker() -> AsyncIterator[FakeWorker]:
    worker = FakeWorker("d0", Role.DECODE)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.die()


@contextlib.asynccontextmanager
async def _link(entry: WorkerEntry, log: _Log, secret: str = SECRET) -> AsyncIterator[WorkerLink]:
    link = WorkerLink(
        entry=entry,
        ingress_id="i0",
        secret=secret,
        on_message=log.message,
        on_down=log.down,
        on_refused=log.refused,
    )
    link.start()
    try:
        yield link
    finally:
        await link.close()
        assert link.state is LinkState.CLOSED


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110  what tests look at sets no event
            await asyncio.sleep(0.01)


async def test_the_first_message_is_the_state_and_makes_the_link_up() -> None:
    log = _Log()
    async with _worker() as worker, _link(worker.entry, log) as link:
        await _until(lambda: link.state is LinkState.UP)
        assert log.messages[0].state.worker_id == "d0"
        link.send(ToWorker(abort=Abort(request_id="r")))
        await _until(lambda: [abort.request_id for abort in worker.aborts] == ["r"])
    assert log.losses == []


async def test_a_dead_worker_is_told_once() -> None:
    log = _Log()
    async with _worker() as worker, _link(worker.entry, log) as link:
        await _until(lambda: link.state is LinkState.UP)
        await worker.die()
        await _until(lambda: len(log.losses) == 1)
        await asyncio.sleep(0.3)
    assert len(log.losses) == 1


async def test_a_dropped_link_is_told_at_once_and_comes_back() -> None:
    log = _Log()
    async with _worker() as worker, _link(worker.entry, log) as link:
        await _until(lambda: link.state is LinkState.UP)
        link.drop("silent")
        assert log.losses == ["silent"]
        assert link.state is LinkState.DOWN
        await _until(lambda: link.state is LinkState.UP)
    assert log.losses == ["silent"]


async def test_messages_sent_just_before_the_close_arrive() -> None:
    log = _Log()
    async with _worker() as worker:
        async with _link(worker.entry, log) as link:
            await _until(lambda: link.state is LinkState.UP)
            for number in range(20):
                link.send(ToWorker(abort=Abort(request_id=f"r{number}")))
        assert [abort.request_id for abort in worker.aborts] == [f"r{number}" for number in range(20)]


async def test_a_worker_of_another_life_at_the_address_is_not_used() -> None:
    log = _Log()
    async with _worker() as worker:
        stale = WorkerEntry(worker_id="d0", incarnation="old", role=Role.DECODE, address=worker.entry.address)
        async with _link(stale, log) as link:
            await asyncio.sleep(0.3)
            assert link.state is not LinkState.UP
    assert log.messages == []
    assert log.losses == []


async def test_a_wrong_secret_is_told_as_a_refusal_that_a_right_one_ends() -> None:
    log = _Log()
    async with _worker() as worker:
        worker.secret = "another"
        async with _link(worker.entry, log) as link:
            await _until(lambda: log.num_refusals > 0)
            assert isinstance(link.refusal, UnauthenticatedError)
            worker.secret = SECRET
            await _until(lambda: link.state is LinkState.UP)
            assert link.refusal is None


_PROCESS = """
import asyncio
from tests.fake_worker import FakeWorker
from workers.spec import Role

async def main() -> None:
    worker = FakeWorker("d0", Role.DECODE, incarnation="x")
    await worker.start()
    print(worker.entry.address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_process_is_told_without_waiting_for_silence() -> None:
    log = _Log()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROCESS, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    entry = WorkerEntry(worker_id="d0", incarnation="x", role=Role.DECODE, address=address)
    async with _link(entry, log) as link:
        await _until(lambda: link.state is LinkState.UP)
        process.kill()
        await process.wait()
        await _until(lambda: len(log.losses) == 1)
    assert log.losses[0].startswith("UNAVAILABLE")
