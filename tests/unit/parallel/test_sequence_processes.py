"""Prompts read by ranks together and answered elsewhere, as worker processes: the tokens of one rank alone."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.profiling.local_cluster import greedy, local_cluster
from tests.models import tiny
from tests.unit.engine.driver import make_spec as fake_spec
from tests.unit.model.driver import generate, make_spec
from tests.unit.parallel.test_handover import PROMPT, PROMPTS, ROUTER, check_handed_over, settled
from tests.unit.parallel.test_processes import ranks_of
from workers.model.fake import FakeRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, GangSpec, KVSpec, Role, WorkerSpec


def readers(spec: WorkerSpec, size: int, number: int = 0, tensor: int = 1) -> list[WorkerSpec]:
    """A prefill worker that divides prompts into `size` pieces, of `tensor` ranks for each."""
    spec = replace(spec, worker_id=f"prefill-{number}", role=Role.PREFILL, secret="s3cret", num_threads=1)
    gang = GangSpec(sequence_parallel=size, tensor_parallel=tensor)
    return [replace(spec, gang=replace(gang, rank=rank)) for rank in range(gang.size)]


def writers(spec: WorkerSpec, degree: int) -> list[WorkerSpec]:
    return ranks_of(replace(spec, worker_id="decode-0", role=Role.DECODE), degree)


@pytest.mark.parametrize(
    ("size", "tensor", "degree", "transport"),
    [
        pytest.param(2, 1, 1, "auto", marks=pytest.mark.slow),  # shared memory
        pytest.param(3, 1, 1, "gloo", marks=pytest.mark.slow),
        pytest.param(2, 1, 1, "grpc", marks=pytest.mark.slow),
        pytest.param(2, 1, 2, "auto", marks=pytest.mark.slow),  # from one store to halves of the heads
        pytest.param(2, 2, 1, "auto", marks=pytest.mark.slow),
        pytest.param(2, 2, 2, "gloo", marks=pytest.mark.slow),
    ],
)
async def test_what_ranks_read_together_is_handed_over_whole(
    tmp_path: Path, size: int, tensor: int, degree: int, transport: str
) -> None:
    folder = tiny("qwen3")
    wanted = [answer.tokens for answer in generate(folder, PROMPTS, 8)]
    engine = EngineSpec(
        block_size=4,
        memory_bytes=4 << 20,
        max_model_len=96,
        max_batched_tokens=18,
        max_sequences=8,
        sequence_parallel_over_tokens=6,
    )
    spec = make_spec(folder, engine=engine, kv=KVSpec(transport=transport))
    specs = [*readers(spec, size, tensor=tensor), *writers(spec, degree)]
    async with local_cluster(specs, ROUTER, tmp_path / "log") as cluster:
        for prompt, tokens in zip(PROMPTS, wanted, strict=True):
            (answer,) = await cluster.answer(prompt, greedy(8))
            assert answer.token_ids == tokens
        check_handed_over(await settled(cluster))
        others = cluster.workers["prefill-0"].others
        assert [other.poll() for other in others] == [None] * (size * tensor - 1)
    assert [other.poll() for other in others] == [0] * (size * tensor - 1)


@pytest.mark.parametrize(("size", "tensor"), [pytest.param(3, 1, marks=pytest.mark.slow), (2, 2)])
async def test_a_rank_that_is_killed_while_prompts_are_read_loses_no_request(
    tmp_path: Path, size: int, tensor: int
) -> None:
    spec = replace(fake_spec(), fake_step_s=0.02)
    specs = [*readers(spec, size, tensor=tensor), *readers(spec, 1, number=1), *writers(spec, 1)]
    async with local_cluster(specs, ROUTER, tmp_path / "log") as cluster:
        prompts = [[number + 2, *PROMPT] for number in range(24)]
        running = [asyncio.create_task(cluster.answer(prompt, greedy(6))) for prompt in prompts]
        await asyncio.sleep(0.25)
        lost = cluster.workers.pop("prefill-0")
        lost.others[1].send_signal(signal.SIGKILL)
        answers = await asyncio.gather(*running)
        params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
        wanted = [FakeRunner.expected_output(prompt, params, 0, 6) for prompt in prompts]
        assert [answer.token_ids for (answer,) in answers] == wanted
        assert await asyncio.to_thread(lost.wait, 5) == 1
        lost.stop()
        await settled(cluster)
