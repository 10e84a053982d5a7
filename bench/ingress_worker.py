"""A worker that computes nothing: the fixed rate of tokens that `bench.ingress` and the tests of the ingress need.

Serves `baton.v1.Worker` in a process of its own until its stdin ends and prints its port. Writes one token per choice
and step, each step in one message as the engine does. When the first prompt token is a slot number, the time
(CLOCK_MONOTONIC, which all processes of a machine share) at which each token is handed to gRPC goes to that slot of a
table in shared memory.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from baton.v1 import inference_pb2, worker_pb2, worker_pb2_grpc
from workers.engine.cache_news import CacheNews

NUM_BLOCKS = 1 << 20
MAX_TOKENS = 1024  # of a slot of the table
FIRST_TOKEN = 600  # ids from here on are whole characters of the demo vocabulary


Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(slots=True)
class _Running:
    request_id: str
    attempt: int
    slot: int
    max_tokens: int
    choices: dict[int, int] = field(default_factory=dict)  # choice -> tokens sent


class Worker(worker_pb2_grpc.WorkerServicer):
    def __init__(
        self,
        *,
        worker_id: str,
        secret: str,
        step_s: float,
        table: Table | None,
    ) -> None:
        self._worker_id = worker_id
        self._secret = secret
        self._step_s = step_s
        self._table = table
        self._num_steps = 0

    async def Session(
        self, request_iterator: AsyncIterator[worker_pb2.ToWorker], context: grpc.aio.ServicerContext
    ) -> None:
        if dict(context.invocation_metadata() or ()).get("baton-secret") != self._secret:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong baton-secret")
        running: dict[str, _Running] = {}
        news = CacheNews()
        await context.write(self._report(running, news))
        reader = asyncio.create_task(self._read(request_iterator, running))
        try:
            await self._step_forever(context, running, news)
        finally:
            reader.cancel()

    async def GetState(
        self, request: worker_pb2.GetStateRequest, context: grpc.aio.ServicerContext
    ) -> worker_pb2.WorkerState:
        return self._state({})

    async def _read(self, messages: AsyncIterator[worker_pb2.ToWorker], running: dict[str, _Running]) -> None:
        async for message in messages:
            kind = message.WhichOneof("message")
            if kind == "submit":
                submit = message.submit
                entry = running.setdefault(
                    submit.request_id,
                    _Running(submit.request_id, submit.attempt, submit.prompt_token_ids[0], submit.sampling.max_tokens),
                )
                for choice in submit.choices:
                    entry.choices[choice.choice] = len(choice.output_token_ids)
            elif kind == "abort":
                entry_ = running.get(message.abort.request_id)
                if entry_ is not None:
                    for number in list(message.abort.choices) or list(entry_.choices):
                        entry_.choices.pop(number, None)
                    if not entry_.choices:
                        del running[message.abort.request_id]

    async def _step_forever(
        self, context: grpc.aio.ServicerContext, running: dict[str, _Running], news: CacheNews
    ) -> None:
        next_s, reported_s, was_busy = time.monotonic(), time.monotonic(), False
        while True:
            next_s = max(next_s + self._step_s, time.monotonic())
            await asyncio.sleep(next_s - time.monotonic())
            if running:
                self._num_steps += 1
                outputs = self._step(running)
                await context.write(worker_pb2.FromWorker(outputs=worker_pb2.StepOutputs(outputs=outputs)))
            now_s = time.monotonic()
            if now_s - reported_s > (0.05 if running or was_busy else 1.0):
                reported_s, was_busy = now_s, bool(running)
                await context.write(self._report(running, news))

    def _report(self, running: dict[str, _Running], news: CacheNews) -> worker_pb2.FromWorker:
        state = self._state(running)
        news.fill(state)
        return worker_pb2.FromWorker(state=state)

    def _step(self, running: dict[str, _Running]) -> list[worker_pb2.TokenOutput]:
        outputs = []
        now_s = time.monotonic()
        for entry in list(running.values()):
            for choice, index in list(entry.choices.items()):
                output = worker_pb2.TokenOutput(
                    request_id=entry.request_id, choice=choice, attempt=entry.attempt, index=index
                )
                output.token_ids.append(FIRST_TOKEN + index % 500)
                entry.choices[choice] = index + 1
                if index + 1 == entry.max_tokens:
                    output.finish_reason = inference_pb2.FINISH_REASON_LENGTH
                    del entry.choices[choice]
                if self._table is not None and entry.slot < len(self._table) and index < MAX_TOKENS:
                    self._table[entry.slot, index] = now_s
                outputs.append(output)
            if not entry.choices:
                del running[entry.request_id]
        return outputs

    def _state(self, running: dict[str, _Running]) -> worker_pb2.WorkerState:
        return worker_pb2.WorkerState(
            worker_id=self._worker_id,
            incarnation="0",
            role=worker_pb2.ROLE_MIXED,
            fingerprint="none",
            block_size=16,
            max_model_len=2048,
            num_blocks=NUM_BLOCKS,
            num_free_blocks=NUM_BLOCKS,
            max_sequences=4096,
            num_running=len(running),
            num_steps=self._num_steps,
            prefill_tokens_per_s=1e6,
            step_s=self._step_s,
        )


def open_table(path: Path, num_slots: int) -> Table:
    """Times by [slot, token index]; 0 where nothing was sent."""
    if not path.exists():
        path.write_bytes(bytes(8 * num_slots * MAX_TOKENS))
    return np.memmap(path, np.float64, "r+", shape=(num_slots, MAX_TOKENS))


async def serve(worker: Worker) -> None:
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # ends when whoever started this process is gone
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker-id", default="mixed-0")
    parser.add_argument("--secret", default="")
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--num-slots", type=int, default=64)
    options = parser.parse_args()
    table = open_table(options.table, options.num_slots) if options.table else None
    worker = Worker(worker_id=options.worker_id, secret=options.secret, step_s=options.step_s, table=table)
    asyncio.run(serve(worker))


if __name__ == "__main__":
    main()
