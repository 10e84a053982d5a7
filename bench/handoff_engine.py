"""The hand-over between two real workers: what it adds between first and second token, and what it costs the prefill.

One prefill and one decode worker, a core each; this process shares the prefill worker's. The reference is the same
prompt on the same prefill worker without a route to a decode worker, and one token asked for: the same computation
without a hand-over. Both sides of a ratio follow each other, in changing order; medians over such pairs are told.
"""

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Hello, Submit, TokenOutput, ToWorker
from baton.v1.worker_pb2_grpc import WorkerStub
from bench.models import LLAMA_150M
from cluster.profiling.local_cluster import WorkerProcess, by_worker, greedy
from workers.spec import EngineSpec, GangSpec, KVSpec, Role, SpeculationSpec, WorkerSpec

PREFILL_CORE, DECODE_CORE = 0, 1
NUM_OUTPUTS = 8  # the second and those after it: the gap in question, and the steps to compare it with
QUIET_S = 0.03  # after the last token: acks, and what the workers tidy up
TIMEOUT_S = 120.0
KV_TOKENS = 2 * 4096  # what each worker has room for
GANG_CHUNK = 2048  # tokens of a step that ranks divide


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One prompt without a hand-over, and one with it. Times in ms; CPU is the prefill worker's, all threads."""

    without_ms: float  # until the first token
    with_ms: float
    without_cpu_ms: float
    with_cpu_ms: float
    gap_ms: float  # from the first token to the second
    step_ms: float  # median gap between the tokens after those: one step of the decode worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    dtype: str
    transport: str
    push: str
    num_tokens: int
    prefill_ms: float
    prefill_ratio: float
    cpu_ratio: float
    gap_ms: float
    step_ms: float
    added_steps: float  # (gap - step) / step
    pairs: list[Pair]


async def measure(specs: Sequence[WorkerSpec], lengths: Sequence[int], rounds: int) -> AsyncIterator[Row]:
    """A row per prompt length, as it comes, over one pair of workers; a first round is thrown away."""
    async with _workers(specs) as (prefill, decode), _Ingress(prefill, decode) as ingress:
        for length in lengths:
            pairs = [
                await ingress.pair(_prompt(length, seed=number), with_first=number % 2 == 0)
                for number in range(rounds + 1)
            ]
            yield _row(prefill.spec, length, pairs[1:])


def _row(spec: WorkerSpec, num_tokens: int, pairs: list[Pair]) -> Row:
    median = statistics.median
    return Row(
        dtype=spec.dtype,
        transport=spec.kv.transport,
        push=spec.kv.push,
        num_tokens=num_tokens,
        prefill_ms=median(pair.without_ms for pair in pairs),
        prefill_ratio=median(pair.with_ms / pair.without_ms for pair in pairs),
        cpu_ratio=median(pair.with_cpu_ms / pair.without_cpu_ms for pair in pairs),
        gap_ms=median(pair.gap_ms for pair in pairs),
        step_ms=median(pair.step_ms for pair in pairs),
        added_steps=median((pair.gap_ms - pair.step_ms) / pair.step_ms for pair in pairs),
        pairs=pairs,
    )


@asynccontextmanager
async def _workers(specs: Sequence[WorkerSpec]) -> AsyncIterator[tuple[WorkerProcess, WorkerProcess]]:
    started: list[WorkerProcess] = []
    try:
        started = [WorkerProcess(leader, None, "workers.process", others) for leader, *others in by_worker(specs)]
        for worker in started:
            await asyncio.to_thread(worker.wait_ready)
        prefill, decode = started
        yield prefill, decode
    finally:
        for worker in started:
            await asyncio.to_thread(worker.stop)


def specs_of(model: Path, dtype: str, transport: str, push: str, sequence: int) -> list[WorkerSpec]:
    """Of the prefill worker's ranks, and of the decode worker."""
    prefill = _spec(model, "prefill-0", Role.PREFILL, PREFILL_CORE, dtype, transport, push)
    decode = _spec(model, "decode-0", Role.DECODE, DECODE_CORE, dtype, transport, push)
    if sequence == 1:
        return [prefill, decode]
    cores = PREFILL_CORE, DECODE_CORE
    prefill = replace(prefill, engine=replace(prefill.engine, max_batched_tokens=GANG_CHUNK))
    ranks = [
        replace(prefill, cores=(cores[rank % len(cores)],), gang=GangSpec(sequence_parallel=sequence, rank=rank))
        for rank in range(sequence)
    ]
    return [*ranks, decode]


def _spec(model: Path, worker_id: str, role: Role, core: int, dtype: str, transport: str, push: str) -> WorkerSpec:
    kv_nbytes = (
        2
        * (4 if dtype == "float32" else 2)
        * LLAMA_150M.layers
        * LLAMA_150M.kv_heads
        * (LLAMA_150M.hidden // LLAMA_150M.heads)
    )
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model=str(model),
        served_name="bench",
        dtype=dtype,
        device="cpu",
        load_format="dummy",
        engine=EngineSpec(memory_bytes=KV_TOKENS * kv_nbytes, prefix_cache=False),
        kv=KVSpec(transport=transport, push=push),
        speculation=SpeculationSpec(method="none"),  # a step per token
        secret="s3cret",
        cores=(core,),
        num_threads=1,
    )


def _prompt(length: int, seed: int) -> list[int]:
    return np.random.default_rng([length, seed]).integers(1, LLAMA_150M.vocab, length).tolist()  # type: ignore[no-any-return]


class _Ingress:
    """What an ingress tells a prefill and a decode worker, and hears of them; no router between."""

    def __init__(self, prefill: WorkerProcess, decode: WorkerProcess) -> None:
        self._prefill, self._decode = prefill, decode
        self._ingress_id = uuid.uuid4().hex[:8]
        self._outputs: asyncio.Queue[tuple[float, TokenOutput]] = asyncio.Queue()
        self._exits = AsyncExitStack()
        self._sessions: list[Any] = []
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "_Ingress":
        for worker in (self._prefill, self._decode):
            channel = await self._exits.enter_async_context(grpc.aio.insecure_channel(worker.address))
            session = WorkerStub(channel).Session(metadata=(("baton-secret", worker.spec.secret),))
            await session.write(ToWorker(hello=Hello(ingress_id=self._ingress_id)))
            self._sessions.append(session)
            self._readers.append(asyncio.create_task(self._read(session)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for reader in self._readers:
            reader.cancel()
        await self._exits.aclose()

    async def _read(self, session: Any) -> None:
        while (message := await session.read()) is not grpc.aio.EOF:
            for output in message.outputs.outputs:
                self._outputs.put_nowait((time.monotonic(), output))

    async def pair(self, prompt: list[int], *, with_first: bool) -> Pair:
        """One of each, in either order."""
        if with_first:
            arrived_ms, with_cpu_ms = await self._timed(prompt, NUM_OUTPUTS)
            (without_ms,), without_cpu_ms = await self._timed(prompt, 1)
        else:
            (without_ms,), without_cpu_ms = await self._timed(prompt, 1)
            arrived_ms, with_cpu_ms = await self._timed(prompt, NUM_OUTPUTS)
        gaps_ms = np.diff(arrived_ms)
        return Pair(
            without_ms=without_ms,
            with_ms=arrived_ms[0],
            without_cpu_ms=without_cpu_ms,
            with_cpu_ms=with_cpu_ms,
            gap_ms=float(gaps_ms[0]),
            step_ms=float(np.median(gaps_ms[1:])),
        )

    async def _timed(self, prompt: list[int], num_outputs: int) -> tuple[list[float], float]:
        """(ms until each token, ms of the prefill worker's CPU); one token is asked for without a decode worker."""
        submit = Submit(
            request_id=uuid.uuid4().hex,
            prompt_token_ids=prompt,
            choices=[ChoiceStart()],
            sampling=greedy(num_outputs),
            timeout_s=TIMEOUT_S,
        )
        if num_outputs > 1:
            decode = self._decode
            submit.decode.CopyFrom(
                DecodeRoute(worker_id=decode.spec.worker_id, incarnation=decode.incarnation, address=decode.address)
            )
        pids = [self._prefill.pid, *(rank.pid for rank in self._prefill.others)]
        cpu_s, began_s = sum(map(_cpu_s, pids)), time.monotonic()
        await self._sessions[0].write(ToWorker(submit=submit))
        arrived_ms: list[float] = []
        async with asyncio.timeout(TIMEOUT_S):
            while len(arrived_ms) < num_outputs:
                now_s, output = await self._outputs.get()
                if output.HasField("error"):
                    raise RuntimeError(f"bench.handoff: {output.error.message}")
                arrived_ms += [(now_s - began_s) * 1e3] * len(output.token_ids)
        await asyncio.sleep(QUIET_S)
        return arrived_ms, (sum(map(_cpu_s, pids)) - cpu_s) * 1e3


def _cpu_s(pid: int) -> float:
    """CPU time of a process's threads, as the scheduler counts it."""
    total_ns = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        total_ns += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total_ns / 1e9


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]
