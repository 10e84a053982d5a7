"""Prompts read by one gang of processes and answered by another, of unlike degrees: the tokens of one rank alone."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from baton.v1.worker_pb2 import WorkerState
from cluster.config.schema import RouterConfig
from cluster.profiling.local_cluster import LocalCluster, greedy, local_cluster
from tests.models import tiny
from tests.unit.engine.driver import make_spec as fake_spec
from tests.unit.model.driver import generate, make_spec
from tests.unit.parallel.test_processes import ranks_of
from workers.model.fake import FakeRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec

ROUTER = RouterConfig(disaggregate_over_tokens=1, max_retries=6)
PROMPT = [(7 * i * i + 3) % 150 + 2 for i in range(41)]
PROMPTS = [PROMPT, PROMPT[:22], [*PROMPT[:30], 5, 6, 7], [9, 8, 7, 6, 5]]  # the second and third share a prefix


def pools(spec: WorkerSpec, senders: int, receivers: int, num_decodes: int = 1) -> list[WorkerSpec]:
    specs = ranks_of(replace(spec, worker_id="prefill-0", role=Role.PREFILL), senders)
    for number in range(num_decodes):
        specs += ranks_of(replace(spec, worker_id=f"decode-{number}", role=Role.DECODE), receivers)
    return specs


async def settled(cluster: LocalCluster) -> list[WorkerState]:
    """Of the workers that are up, once nothing is held or in transfer anywhere.

    Only reports that came after the call count: those before may tell of an earlier answer's end.
    """
    begin = time.monotonic() + 0.2  # for those that are on their way
    async with asyncio.timeout(20):
        while True:
            views = [view for view in cluster.dispatcher.states() if view.state is not None and view.up]
            states = [view.state for view in views if view.state is not None and view.age_s < time.monotonic() - begin]
            idle = (state.num_free_blocks == state.num_blocks and not state.num_transfers for state in states)
            if len(states) == len(views) and all(idle):
                return states
            await asyncio.sleep(0.05)


def check_handed_over(states: Sequence[WorkerState]) -> None:
    assert sum(state.num_failed_transfers for state in states) == 0
    sent = sum(state.kv_bytes_sent for state in states)
    assert sent == sum(state.kv_bytes_received for state in states) > 0


@pytest.mark.parametrize(
    ("senders", "receivers", "transport"),
    [
        pytest.param(2, 1, "auto", marks=pytest.mark.slow),
        pytest.param(1, 2, "gloo", marks=pytest.mark.slow),
        pytest.param(2, 4, "grpc", marks=pytest.mark.slow),  # KV heads fewer than ranks
        pytest.param(4, 2, "auto", marks=pytest.mark.slow),
    ],
)
async def test_unlike_gangs_give_the_tokens_of_generate(
    tmp_path: Path, senders: int, receivers: int, transport: str
) -> None:
    folder = tiny("llama")
    wanted = [answer.tokens for answer in generate(folder, PROMPTS, 8)]
    engine = EngineSpec(block_size=4, memory_bytes=4 << 20, max_model_len=96, max_batched_tokens=7)  # ends in blocks
    spec = make_spec(folder, engine=engine, kv=KVSpec(transport=transport))
    async with local_cluster(pools(spec, senders, receivers), ROUTER, tmp_path / "log") as cluster:
        for prompt, tokens in zip(PROMPTS, wanted, strict=True):
            (answer,) = await cluster.answer(prompt, greedy(8))
            assert answer.token_ids == tokens
        check_handed_over(await settled(cluster))


def _expected(prompt: Sequence[int], num_outputs: int) -> list[int]:
    params = SamplingParams(max_tokens=num_outputs, temperature=0, ignore_eos=True)
    return FakeRunner.expected_output(prompt, params, 0, num_outputs)


@pytest.mark.parametrize(
    ("senders", "receivers"),
    [(3, 2), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 1, marks=pytest.mark.slow)],
)
async def test_gangs_of_fakes_hand_over_too(tmp_path: Path, senders: int, receivers: int) -> None:
    async with local_cluster(pools(fake_spec(), senders, receivers), ROUTER, tmp_path / "log") as cluster:
        answers = await asyncio.gather(*(cluster.answer(prompt, greedy(6)) for prompt in PROMPTS * 4))
        assert [answer.token_ids for (answer,) in answers] == [_expected(prompt, 6) for prompt in PROMPTS * 4]
        check_handed_over(await settled(cluster))


@pytest.mark.parametrize(
    ("side", "rank"),
    [
        ("decode", 1),
        pytest.param("decode", 0, marks=pytest.mark.slow),
        pytest.param("prefill", 0, marks=pytest.mark.slow),
        pytest.param("prefill", 1, marks=pytest.mark.slow),
    ],
)
async def test_a_rank_killed_in_the_middle_of_hand_overs_loses_no_request(tmp_path: Path, side: str, rank: int) -> None:
    spec = replace(fake_spec(), fake_step_s=0.02)
    specs = pools(spec, 2, 2, num_decodes=2)
    specs += ranks_of(replace(spec, worker_id="prefill-1", role=Role.PREFILL), 1)
    async with local_cluster(specs, ROUTER, tmp_path / "log") as cluster:
        prompts = [[number + 2, *PROMPT] for number in range(24)]
        running = [asyncio.create_task(cluster.answer(prompt, greedy(6))) for prompt in prompts]
        await asyncio.sleep(0.25)
        lost = cluster.workers.pop(f"{side}-0")
        os.kill(lost.others[0].pid if rank else lost.pid, signal.SIGKILL)
        answers = await asyncio.gather(*running)
        assert [answer.token_ids for (answer,) in answers] == [_expected(prompt, 6) for prompt in prompts]
        assert await asyncio.to_thread(lost.wait, 5) != 0
        assert await asyncio.to_thread(lost.others[0].wait, 5) != 0
        lost.stop()
        await settled(cluster)
