"""Many workers in one process, for `bench.many_workers`: production's `WorkerService`s, engines that compute nothing.

Serves `baton.v1.Worker` until its stdin ends and prints its port; each session that comes is another worker's. A
token's id is the time at which its step was told, in microseconds of CLOCK_MONOTONIC modulo 2**32. Some workers are
kept busy by requests of other ingresses.
"""

import argparse
import asyncio
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, cast

import grpc

from baton.v1 import inference_pb2, worker_pb2, worker_pb2_grpc
from workers.engine.block_hash import block_hashes
from workers.engine.engine import Engine, StepReport
from workers.engine.load_report import LoadReport
from workers.service import WorkerService
from workers.spec import Role, WorkerSpec

BLOCK_SIZE = 16
NUM_BLOCKS = 4096
INCARNATION = "0"
OTHERS_PROMPT_BLOCKS = 32  # of a request of another ingress: 512 tokens
OTHERS_STEPS = 128  # and 128 tokens of output


@dataclass(frozen=True, slots=True)
class Shape:
    """What `WorkerService` asks of a runner."""

    fingerprint: str = "none"
    num_blocks: int = NUM_BLOCKS
    max_model_len: int = 8192


@dataclass(slots=True)
class FakeAnswer:
    ingress_id: str
    submit: worker_pb2.Submit
    num_tokens: int = 0


IDLE = LoadReport(
    role=Role.MIXED,
    is_idle=True,
    waiting_since_s=None,
    draining=False,
    num_free_blocks=NUM_BLOCKS,
    num_referenced_blocks=0,
    num_quarantined_blocks=0,
    num_states=0,
    num_free_states=0,
    num_running=0,
    num_waiting=0,
    num_waiting_tokens=0,
    num_preemptions=0,
    num_steps=0,
    step_s=0.0,
    prefill_tokens_per_s=1e4,
    num_prefix_hit_tokens=0,
    num_prompt_tokens=0,
    num_output_tokens=0,
    kv_bytes_sent=0,
    kv_bytes_received=0,
    num_transfers=0,
    num_failed_transfers=0,
)


class IdleEngine:
    """Writes a token per request and step, and keeps the hashes that a prefix cache of `num_cached` blocks would."""

    def __init__(self, *, num_cached: int, step_s: float, rng: Random, is_busy: bool) -> None:
        self.runner, self.load = Shape(), IDLE
        self.service: WorkerService
        self._num_cached, self._step_s, self._rng, self._is_busy = num_cached, step_s, rng, is_busy
        self._answers: dict[str, FakeAnswer] = {}
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._fresh: list[int] = [rng.getrandbits(64) for _ in range(num_cached)]
        self._news = asyncio.Event()

    def submit(self, ingress_id: str, submit: worker_pb2.Submit) -> None:
        self._answers[submit.request_id] = FakeAnswer(ingress_id, submit)
        self._fresh += block_hashes(submit.prompt_token_ids, BLOCK_SIZE)
        self._news.set()

    def abort(self, abort: worker_pb2.Abort) -> None:
        self._answers.pop(abort.request_id, None)

    def disconnect(self, ingress_id: str) -> None:
        self._answers = {key: one for key, one in self._answers.items() if one.ingress_id != ingress_id}

    async def run(self) -> None:
        self._tell({})
        await asyncio.sleep(self._rng.random() * self._step_s)
        num_steps = 0
        while True:
            if not self._answers and not self._is_busy:
                self._news.clear()
                self._tell({})
                await self._news.wait()
            num_steps += 1
            if self._is_busy and num_steps % OTHERS_STEPS == 1:
                self._fresh += [self._rng.getrandbits(64) for _ in range(OTHERS_PROMPT_BLOCKS)]
            began_s = time.monotonic()
            self._tell(self._outputs())
            await asyncio.sleep(max(began_s + self._step_s - time.monotonic(), 0.0))

    def _outputs(self) -> dict[str, list[worker_pb2.TokenOutput]]:
        outputs = defaultdict(list)
        now = int(time.monotonic() * 1e6) % 2**32
        for request_id, answer in list(self._answers.items()):
            output = worker_pb2.TokenOutput(request_id=request_id, attempt=answer.submit.attempt)
            output.index = answer.num_tokens
            output.token_ids.append(now)
            answer.num_tokens += 1
            if answer.num_tokens == answer.submit.sampling.max_tokens:
                output.finish_reason = inference_pb2.FINISH_REASON_LENGTH
                del self._answers[request_id]
            outputs[answer.ingress_id].append(output)
        return outputs

    def _tell(self, outputs: dict[str, list[worker_pb2.TokenOutput]]) -> None:
        added = [one for one in self._fresh if one not in self._cache]
        self._fresh = []
        self._cache.update(dict.fromkeys(added))
        removed = [self._cache.popitem(last=False)[0] for _ in range(len(self._cache) - self._num_cached)]
        num_running = len(self._answers) + self._is_busy
        num_used = sum(len(one.submit.prompt_token_ids) // BLOCK_SIZE for one in self._answers.values())
        load = replace(
            self.load,
            is_idle=not num_running,
            waiting_since_s=time.monotonic() if num_running else None,
            num_running=num_running,
            num_free_blocks=NUM_BLOCKS - num_used,
            num_referenced_blocks=num_used,
            num_steps=self.load.num_steps + 1,
        )
        self.load = load
        self.service.on_step(StepReport(outputs, added, removed, load))


class Workers(worker_pb2_grpc.WorkerServicer):
    """Gives each session to a worker that has none."""

    def __init__(self, services: list[WorkerService]) -> None:
        self._free = services

    async def Session(
        self, requests: AsyncIterator[worker_pb2.ToWorker], context: Any
    ) -> AsyncIterator[worker_pb2.FromWorker]:
        service = self._free.pop()
        try:
            async for message in service.Session(requests, context):
                yield message
        finally:
            self._free.append(service)


async def serve(options: argparse.Namespace) -> None:
    engines = [
        IdleEngine(
            num_cached=options.cached, step_s=options.step_s, rng=Random(index), is_busy=index < options.num_busy
        )
        for index in range(options.num_workers)
    ]
    for index, engine in enumerate(engines):
        spec = WorkerSpec(
            worker_id=f"mixed-{index}", role=Role.MIXED, model="", served_name="", dtype="float32", device="cpu"
        )
        engine.service = WorkerService(
            engine=cast(Engine, engine), spec=spec, incarnation=INCARNATION, fail=lambda error: sys.exit(repr(error))
        )
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(Workers([engine.service for engine in engines]), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tasks = [asyncio.create_task(engine.run()) for engine in engines]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # ends when whoever started this process is gone
    for task in tasks:
        task.cancel()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-workers", type=int, required=True)
    parser.add_argument("--num-busy", type=int, default=0)
    parser.add_argument("--cached", type=int, default=1000)
    parser.add_argument("--step-s", type=float, default=0.05)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
