"""The worker's service beside an engine that runs in a thread of its own."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from baton.v1 import inference_pb2, worker_pb2
from tests.unit.engine.driver import make_spec
from workers.engine.engine import Engine, StepReport
from workers.engine.sequence import Sequence
from workers.model.contract import Batch, Sampled
from workers.model.fake import FakeRunner
from workers.service import WorkerService
from workers.sessions import HEARTBEAT_S
from workers.spec import WorkerSpec


class _HeldRunner(FakeRunner):
    """Every step waits for `go_on`."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self.go_on = threading.Event()

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[Sampled]:
        assert self.go_on.wait(10.0)
        return super().run(batch, on_layer)


class _Owned(deque[Sequence]):
    """What reading it beside the engine's thread ends in, every time instead of now and then."""

    owner: int | None = None

    def __iter__(self) -> Iterator[Sequence]:
        if threading.get_ident() != self.owner:
            raise RuntimeError("deque mutated during iteration")
        return super().__iter__()


class _Worker:
    def __init__(self) -> None:
        spec = make_spec(max_sequences=2)
        self.runner = _HeldRunner(spec)
        self.engine = Engine(runner=self.runner, spec=spec, emit=self._emit, clock=time.monotonic)
        self.failures: list[BaseException] = []
        self.messages: asyncio.Queue[worker_pb2.ToWorker] = asyncio.Queue()  # of the ingress
        self.session: AsyncIterator[worker_pb2.FromWorker]
        self.service = WorkerService(engine=self.engine, spec=spec, incarnation="x", fail=self.failures.append)
        self.waiting = self.engine.scheduler.waiting = _Owned()
        self.thread = threading.Thread(target=self._run)

    def _emit(self, report: StepReport) -> None:
        self.service.on_step(report)

    def _run(self) -> None:
        self.waiting.owner = threading.get_ident()
        self.engine.run()

    def submit(self, request_id: str) -> None:
        sampling = inference_pb2.SamplingParams(max_tokens=4, seed=1, ignore_eos=True)
        submit = worker_pb2.Submit(request_id=request_id, prompt_token_ids=range(8), sampling=sampling, timeout_s=60.0)
        submit.choices.add(choice=0)
        self.engine.submit("i", submit)


async def _ingress(messages: asyncio.Queue[worker_pb2.ToWorker]) -> AsyncIterator[worker_pb2.ToWorker]:
    yield worker_pb2.ToWorker(hello=worker_pb2.Hello(ingress_id="i"))
    while True:
        yield await messages.get()


@contextlib.asynccontextmanager
async def _running() -> AsyncIterator[_Worker]:
    """With a session of the ingress that asks, and its first state read."""
    worker = _Worker()
    worker.thread.start()
    context: Any = None  # asked for nothing while the hello is right
    session: Any = worker.service.Session(_ingress(worker.messages), context)
    try:
        await anext(session)
        worker.session = session
        yield worker
    finally:
        await session.aclose()
        worker.runner.go_on.set()
        worker.engine.stop()
        await asyncio.to_thread(worker.thread.join)
        with contextlib.suppress(AttributeError):  # of the reporter that a test broke
            await worker.service.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110  the engine is a thread
            await asyncio.sleep(0.005)


async def test_the_state_is_read_without_a_look_at_what_the_engines_thread_owns() -> None:
    async with _running() as worker:
        for index in range(5):
            worker.submit(f"r{index}")
        await _until(lambda: worker.service.state().num_running == 2)
        assert worker.service.state().num_waiting == 3


async def test_a_step_in_flight_is_told_before_it_ends() -> None:
    async with _running() as worker:
        assert worker.service.state().since_progress_s == 0.0
        worker.submit("r")
        await _until(lambda: worker.service.state().since_progress_s > 0.01)
        assert worker.service.state().num_steps == 0
        worker.runner.go_on.set()
        await _until(lambda: worker.service.state().num_output_tokens == 4)
        assert worker.service.state().since_progress_s == 0.0


async def test_a_worker_is_drained_when_what_it_took_has_ended() -> None:
    async with _running() as worker:
        worker.submit("r")
        worker.engine.drain()
        await _until(lambda: worker.service.state().draining)
        assert not worker.service.is_drained
        worker.runner.go_on.set()
        await _until(lambda: worker.service.is_drained)


async def test_a_reporter_that_dies_ends_the_worker() -> None:
    async with _running() as worker:
        no_load: Any = None
        worker.service.on_step(StepReport({}, [], [], no_load))
        await _until(lambda: bool(worker.failures))
        assert isinstance(worker.failures[0], AttributeError)


async def test_tokens_that_cannot_be_delivered_end_the_worker() -> None:
    async with _running() as worker:
        no_output: Any = object()
        worker.service.on_step(StepReport({"i": [no_output]}, [], [], worker.engine.load))
        await _until(lambda: bool(worker.failures))
        assert isinstance(worker.failures[0], TypeError)


async def _next_state(worker: _Worker) -> worker_pb2.WorkerState:
    async with asyncio.timeout(10.0):
        async for message in worker.session:
            if message.HasField("state"):
                return message.state
    raise AssertionError("the session ended")


async def test_an_ingress_that_missed_a_report_is_told_the_whole_cache() -> None:
    async with _running() as worker:
        worker.service.on_step(StepReport({}, [1, 2, 3], [], worker.engine.load))
        first = await _next_state(worker)
        assert (first.report_number, [*first.added_block_hashes]) == (2, [1, 2, 3])
        worker.service.on_step(StepReport({}, [4], [1], worker.engine.load))
        worker.messages.put_nowait(worker_pb2.ToWorker(reports=worker_pb2.ReportWish(snapshot=True)))
        while (state := await _next_state(worker)).report_number != 1:
            pass
        assert [*state.added_block_hashes] == [2, 3, 4]
        assert not state.removed_block_hashes


async def test_a_worker_without_news_sends_an_empty_message_within_its_heartbeat() -> None:
    async with _running() as worker:
        began_s = time.monotonic()
        async with asyncio.timeout(10.0):
            message = await anext(worker.session)
        assert message == worker_pb2.FromWorker()
        assert time.monotonic() - began_s > HEARTBEAT_S / 2


async def test_a_stream_in_whose_place_another_has_come_ends() -> None:
    """It would be told nothing any more, and its reader hold the worker for silent."""
    async with _running() as worker:
        context: Any = None
        later: Any = worker.service.Session(_ingress(asyncio.Queue()), context)
        await anext(later)
        async with asyncio.timeout(10.0):
            assert [message async for message in worker.session if message.HasField("outputs")] == []
        worker.submit("r")
        worker.runner.go_on.set()
        async with asyncio.timeout(10.0):
            assert await anext(message async for message in later if message.HasField("outputs"))
        await later.aclose()
