"""Worker processes with one that drafts, asked over their own streams: what a router would send, a test sends."""

import asyncio
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from baton.v1 import inference_pb2, worker_pb2, worker_pb2_grpc
from baton.v1.worker_pb2 import FromWorker, Hello, Submit, ToWorker, WorkerState
from cluster.profiling.local_cluster import WorkerProcess, by_worker
from workers.spec import WorkerSpec

SECRET = "s3cret"
METADATA = (("baton-secret", SECRET),)
PATIENCE_S = 30.0


class DraftedWorkers:
    """Not for several event loops. `workers` by id; an answer comes from whichever worker wrote it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.workers: dict[str, WorkerProcess] = {}
        self.tokens: dict[str, dict[int, int]] = defaultdict(dict)  # by request and index
        self.errors: dict[str, worker_pb2.WorkerError] = {}
        self._ended: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._streams: dict[str, asyncio.Queue[ToWorker]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._num_requests = 0

    async def start(self, *specs: WorkerSpec) -> None:
        """Of gangs the specs of all ranks."""
        started = [
            WorkerProcess(leader, self._folder / f"{leader.worker_id}.log", others=others)
            for leader, *others in by_worker(specs)
        ]
        self.workers |= {worker.spec.worker_id: worker for worker in started}
        for worker in started:
            await asyncio.to_thread(worker.wait_ready)
            self._open(worker)

    def log(self, worker_id: str) -> str:
        return (self._folder / f"{worker_id}.log").read_text()

    async def kill(self, worker_id: str) -> None:
        await asyncio.to_thread(self.workers.pop(worker_id).kill)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
        for worker in self.workers.values():
            await asyncio.to_thread(worker.stop)

    def submit(
        self,
        prompt: Sequence[int],
        *,
        decode: str,
        prefill: str = "",
        draft: str = "",
        address: str = "",
        choices: int = 1,
        **sampling: Any,
    ) -> str:
        """The request's id. `address`: of the draft worker, where it is not one of these."""
        self._num_requests += 1
        submit = Submit(
            request_id=f"r{self._num_requests}",
            prompt_token_ids=prompt,
            choices=[worker_pb2.ChoiceStart(choice=choice) for choice in range(choices)],
            sampling=inference_pb2.SamplingParams(**({"seed": 1, "temperature": 0.0, "ignore_eos": True} | sampling)),
            timeout_s=60.0,
        )
        if prefill:
            submit.decode.CopyFrom(worker_pb2.DecodeRoute(worker_id=decode, address=self.workers[decode].address))
        if draft:
            submit.draft.worker_id = draft
            submit.draft.address = address or self.workers[draft].address
        self._streams[prefill or decode].put_nowait(ToWorker(submit=submit))
        return submit.request_id

    def abort(self, worker_id: str, request_id: str) -> None:
        self._streams[worker_id].put_nowait(ToWorker(abort=worker_pb2.Abort(request_id=request_id)))

    async def answer(self, request_id: str) -> list[int]:
        """Raises: AssertionError: it failed, or a token came twice or not at all."""
        async with asyncio.timeout(PATIENCE_S):
            await self._ended[request_id].wait()
        assert request_id not in self.errors, self.errors[request_id].message
        tokens = self.tokens[request_id]
        assert sorted(tokens) == list(range(len(tokens)))
        return [tokens[index] for index in range(len(tokens))]

    async def until(self, request_id: str, num_tokens: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.tokens[request_id]) < num_tokens:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def state(self, worker_id: str) -> WorkerState:
        stub = worker_pb2_grpc.WorkerStub(self._channels[worker_id])
        state: WorkerState = await stub.GetState(worker_pb2.GetStateRequest(), metadata=METADATA)
        return state

    async def until_state(self, worker_id: str, holds: Any) -> WorkerState:
        """The first state for which `holds` is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds(state := await self.state(worker_id)):
            assert time.monotonic() < deadline_s, f"not in time: {state}"
            await asyncio.sleep(0.02)
        return state

    def _open(self, worker: WorkerProcess) -> None:
        worker_id = worker.spec.worker_id
        channel = self._channels[worker_id] = grpc.aio.insecure_channel(worker.address)
        stream = self._streams[worker_id] = asyncio.Queue()
        stream.put_nowait(ToWorker(hello=Hello(ingress_id="test")))
        call = worker_pb2_grpc.WorkerStub(channel).Session(_messages(stream), metadata=METADATA)
        self._tasks.append(asyncio.create_task(self._read(call)))

    async def _read(self, call: AsyncIterator[FromWorker]) -> None:
        with contextlib.suppress(grpc.RpcError):  # it was killed
            async for message in call:
                for output in message.outputs.outputs:
                    self._take(output)

    def _take(self, output: worker_pb2.TokenOutput) -> None:
        name = f"{output.request_id}" if not output.choice else f"{output.request_id}/{output.choice}"
        for offset, token_id in enumerate(output.token_ids):
            assert output.index + offset not in self.tokens[name], f"{name}: token {output.index} twice"
            self.tokens[name][output.index + offset] = token_id
        if output.HasField("error"):
            self.errors[name] = output.error
        if output.finish_reason:
            self._ended[name].set()


async def _messages(stream: asyncio.Queue[ToWorker]) -> AsyncIterator[ToWorker]:
    while True:
        yield await stream.get()


@contextlib.asynccontextmanager
async def drafted_workers(*specs: WorkerSpec) -> AsyncIterator[DraftedWorkers]:
    with tempfile.TemporaryDirectory() as folder:
        running = DraftedWorkers(Path(folder))
        try:
            await running.start(*specs)
            yield running
        finally:
            await running.close()
