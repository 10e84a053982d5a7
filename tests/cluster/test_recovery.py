"""Worker processes that are killed under load: no request is lost, no token comes twice, every block is free again."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest

from baton.errors import CancelledError
from baton.v1.inference_pb2 import FINISH_REASON_LENGTH, SamplingParams
from baton.v1.worker_pb2 import WorkerState
from cluster.config.schema import RouterConfig
from cluster.profiling.local_cluster import LocalCluster, WorkerProcess, local_cluster
from workers.engine.wire import sampling_params
from workers.model.fake import FakeRunner
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec

SMALL = 60 * 128  # bytes, 60 blocks: what one sequence of 160 tokens takes, and half as much again
ROUTER = RouterConfig(disaggregate_over_tokens=8, max_retries=6)


def fake(worker_id: str, role: Role, memory_bytes: int = 1 << 18) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model="fake",
        served_name="fake",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(memory_bytes=memory_bytes, block_size=4, max_batched_tokens=32, max_model_len=160),
        kv=KVSpec(transport="grpc", lease_s=3.0),
        secret="s3cret",
        fake=True,
        fake_step_s=0.002,
    )


def sampling(seed: int, max_tokens: int, n: int = 1) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=seed, n=n, temperature=1.0, ignore_eos=True, logprobs=1)


def expected(prompt: list[int], params: SamplingParams, choice: int) -> list[int]:
    return FakeRunner.expected_output(prompt, sampling_params(params), choice, params.max_tokens)


@contextlib.asynccontextmanager
async def cluster(*roles: tuple[str, Role]) -> AsyncIterator[LocalCluster]:
    async with local_cluster([fake(name, role) for name, role in roles], ROUTER) as running:
        yield running


async def replace(running: LocalCluster, worker_id: str) -> None:
    """SIGKILL, then a new incarnation under the same id."""
    old = running.workers[worker_id]
    await asyncio.to_thread(old.kill)
    del running.workers[worker_id]
    new = WorkerProcess(old.spec)
    await asyncio.to_thread(new.wait_ready)
    running.workers[worker_id] = new


async def until_free(running: LocalCluster, timeout_s: float = 15.0) -> None:
    """Waits until no worker references a block or runs a transfer."""
    deadline = time.monotonic() + timeout_s
    while True:
        states = [view.state for view in running.dispatcher.states() if view.state is not None]
        if len(states) == len(running.workers) and not any(map(held, states)):
            return
        assert time.monotonic() < deadline, f"still held: {[held(state) for state in states]}"
        await asyncio.sleep(0.1)


def held(state: WorkerState) -> int:
    referenced = state.num_referenced_blocks + state.num_quarantined_blocks
    return referenced + state.num_running + state.num_waiting + state.num_transfers


@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
@pytest.mark.parametrize("moment_s", [0.03, 0.12, 0.3, 0.5])
async def test_a_worker_killed_at_any_moment_loses_no_request(victim: str, moment_s: float) -> None:
    async with cluster(("prefill-0", Role.PREFILL), ("decode-0", Role.DECODE)) as running:
        prompts = [[seed + 1, *range(1, 110)] for seed in range(4)]
        params = [sampling(seed, 40) for seed in range(4)]
        answers = [asyncio.create_task(running.answer(p, s, 60)) for p, s in zip(prompts, params, strict=True)]
        await asyncio.sleep(moment_s)
        await replace(running, victim)
        for prompt, param, task in zip(prompts, params, answers, strict=True):
            (answer,) = await task
            assert answer.token_ids == expected(prompt, param, 0)
            assert [output.finish_reason for output in answer.outputs if output.finish_reason] == [FINISH_REASON_LENGTH]
        await until_free(running)


async def test_sequences_that_a_decode_worker_preempts_go_through_prefill_again() -> None:
    small = [fake("prefill-0", Role.PREFILL), fake("decode-0", Role.DECODE, memory_bytes=SMALL)]
    async with local_cluster(small, ROUTER) as running:
        prompts = [[seed + 1, *range(1, 40)] for seed in range(8)]
        params = [sampling(seed, 60) for seed in range(8)]
        answers = await asyncio.gather(*(running.answer(p, s, 60) for p, s in zip(prompts, params, strict=True)))
        for prompt, param, (answer,) in zip(prompts, params, answers, strict=True):
            assert answer.token_ids == expected(prompt, param, 0)
        decode = next(view.state for view in running.dispatcher.states() if view.entry.worker_id == "decode-0")
        assert decode is not None
        assert decode.num_preemptions > 0
        assert running.dispatcher.counters.num_retries > 0
        await until_free(running)


@pytest.mark.timeout(300)
async def test_500_requests_with_aborts_and_every_worker_killed_once_all_complete() -> None:
    rng = random.Random(7)
    roles = [
        ("prefill-0", Role.PREFILL),
        ("prefill-1", Role.PREFILL),
        ("decode-0", Role.DECODE),
        ("decode-1", Role.DECODE),
    ]
    async with cluster(*roles) as running:

        async def one(index: int) -> str:
            length = rng.choice([3, 7, 20, 50, 120])
            prompt = [index % 200 + 1, *(rng.randrange(1, 200) for _ in range(length))]
            params = sampling(index, rng.randrange(1, 30), n=rng.choice([1, 1, 1, 2]))
            limit_s = rng.uniform(0.0, 0.5) if index % 3 == 0 else None
            task = asyncio.create_task(running.answer(prompt, params, 120))
            done, _ = await asyncio.wait([task], timeout=limit_s)
            if not done:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, CancelledError):
                    await task
                return "aborted"
            for choice, answer in enumerate(task.result()):
                assert answer.token_ids == expected(prompt, params, choice), f"request {index} choice {choice}"
                logprobs = [entry.sampled.token_id for output in answer.outputs for entry in output.logprobs]
                assert logprobs == answer.token_ids
            return "completed"

        async def kills() -> None:
            for worker_id, _ in roles:
                await asyncio.sleep(1.0)
                await replace(running, worker_id)

        killer = asyncio.create_task(kills())
        gate = asyncio.Semaphore(48)

        async def gated(index: int) -> str:
            async with gate:
                return await one(index)

        outcomes = await asyncio.gather(*(gated(index) for index in range(500)))
        await killer
        assert outcomes.count("completed") >= 334 - 1
        assert outcomes.count("aborted") > 20
        await until_free(running)
