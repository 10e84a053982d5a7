"""Draft workers beside workers that decode, each a process: the same tokens, whatever becomes of who drafts."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from baton.v1 import inference_pb2
from tests.drafted_workers import DraftedWorkers, drafted_workers
from tests.models import tiny
from workers.engine.wire import sampling_params
from workers.model.fake import FakeRunner
from workers.spec import EngineSpec, GangSpec, KVSpec, Role, WorkerSpec

STEP_S = 0.01
NUM_OUTPUTS = 120


def fake(worker_id: str, role: Role, **other: object) -> WorkerSpec:
    settings: dict[str, object] = {
        "model": "fake",
        "served_name": "fake",
        "dtype": "float32",
        "device": "cpu",
        "engine": EngineSpec(memory_bytes=1 << 18, block_size=4, max_batched_tokens=64),
        "kv": KVSpec(transport="grpc", lease_s=3.0),
        "secret": "s3cret",
        "fake": True,
        "fake_step_s": 0.001 if role is Role.DRAFT else STEP_S,
    }
    return WorkerSpec(worker_id=worker_id, role=role, **(settings | other))  # type: ignore[arg-type]


PREFILL, DECODE, DRAFT = (fake(f"{role}-0", role) for role in (Role.PREFILL, Role.DECODE, Role.DRAFT))
MIXED = fake("mixed-0", Role.MIXED)


def expected(prompt: list[int], choice: int = 0, **sampling: object) -> list[int]:
    settings = {"max_tokens": NUM_OUTPUTS, "temperature": 0.0, "seed": 1, "ignore_eos": True} | sampling
    params = sampling_params(inference_pb2.SamplingParams(**settings))  # type: ignore[arg-type]
    return FakeRunner.expected_output(prompt, params, choice, params.max_tokens)


def prompt(number: int) -> list[int]:
    return [number + 1, *range(1, 30 + 9 * number)]


async def saved_steps(running: DraftedWorkers, worker_id: str) -> int:
    """Tokens that drafts have added to steps."""
    return sum((await running.state(worker_id)).accepted_by_place)


async def test_a_draft_worker_that_knows_the_answers_saves_steps_and_changes_no_token() -> None:
    async with drafted_workers(PREFILL, DECODE, DRAFT) as running:
        names = {
            number: running.submit(
                prompt(number),
                prefill="prefill-0",
                decode="decode-0",
                draft="draft-0",
                max_tokens=NUM_OUTPUTS,
                temperature=1.0,
            )
            for number in range(4)
        }
        for number, name in names.items():
            assert await running.answer(name) == expected(prompt(number), temperature=1.0)
        state = await running.state("decode-0")
        assert sum(state.accepted_by_place) > 0
        assert state.num_guess_hits > 0
        drafts = await running.until_state("draft-0", lambda state: not state.num_running + state.num_waiting)
        assert drafts.num_guess_hits > 0
        assert drafts.num_output_tokens > 0
        assert drafts.num_free_blocks == drafts.num_blocks


def ask(running: DraftedWorkers, number: int, worker_id: str = "mixed-0", **more: object) -> str:
    settings: dict[str, object] = {"decode": worker_id, "draft": "draft-0", "max_tokens": NUM_OUTPUTS} | more
    return running.submit(prompt(number), **settings)  # type: ignore[arg-type]


async def test_two_decode_workers_share_a_draft_worker() -> None:
    async with drafted_workers(MIXED, replace(MIXED, worker_id="mixed-1"), DRAFT) as running:
        names = {number: ask(running, number, f"mixed-{number % 2}") for number in range(6)}
        for number, name in names.items():
            assert await running.answer(name) == expected(prompt(number))
        for worker_id in ("mixed-0", "mixed-1"):
            assert await saved_steps(running, worker_id) > 0
        assert (await running.state("draft-0")).num_draft_peers == 2


async def test_a_draft_worker_that_is_killed_and_comes_back_elsewhere_drafts_again_in_the_same_answer() -> None:
    async with drafted_workers(MIXED, DRAFT) as running:
        name = ask(running, 1, max_tokens=600)
        await running.until(name, 60)
        await running.kill("draft-0")
        await running.until_state("mixed-0", lambda state: not state.num_draft_peers)
        before = await saved_steps(running, "mixed-0")
        assert before > 0
        await running.start(DRAFT)
        other = ask(running, 2)  # with which the router says where the worker is now
        assert await running.answer(other) == expected(prompt(2))
        assert await running.answer(name) == expected(prompt(1), max_tokens=600)
        assert await saved_steps(running, "mixed-0") > before


async def test_a_draft_worker_that_hangs_holds_nobody_up_and_is_followed_again_when_it_goes_on() -> None:
    async with drafted_workers(MIXED, DRAFT) as running:
        names = [ask(running, 1, max_tokens=1000), ask(running, 2, max_tokens=1000)]
        await running.until(names[0], 40)
        pid = running.workers["draft-0"].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.3)
            hung = await running.state("mixed-0")
            await asyncio.sleep(1.0)
            later = await running.state("mixed-0")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert later.num_steps - hung.num_steps > 5
        for number, name in enumerate(names, 1):
            assert await running.answer(name) == expected(prompt(number), max_tokens=1000)
        assert await saved_steps(running, "mixed-0") > sum(later.accepted_by_place)


@pytest.mark.slow
async def test_a_draft_worker_may_start_late() -> None:
    async with drafted_workers(DRAFT) as running:
        address = running.workers["draft-0"].address
        await running.kill("draft-0")
        await running.start(MIXED)
        name = ask(running, 1, max_tokens=400, address=address)  # nobody is there
        await running.until(name, 40)
        await running.start(DRAFT)
        ask(running, 2)
        assert await running.answer(name) == expected(prompt(1), max_tokens=400)
        assert await saved_steps(running, "mixed-0") > 0


async def test_a_draft_worker_with_another_secret_costs_nothing_but_its_drafts() -> None:
    async with drafted_workers(MIXED, DRAFT, replace(DRAFT, worker_id="draft-1", secret="another")) as running:
        name = ask(running, 1, draft="draft-1")
        assert await running.answer(name) == expected(prompt(1))
        state = await running.state("mixed-0")
        assert (state.num_guess_hits, state.num_draft_peers) == (0, 0)
        assert "UNAUTHENTICATED" in running.log("mixed-0")


async def test_a_draft_worker_takes_no_requests() -> None:
    async with drafted_workers(DRAFT) as running:
        name = ask(running, 1, "draft-0")
        with pytest.raises(AssertionError, match="draft-0 is a draft worker and takes no requests"):
            await running.answer(name)


def real(spec: WorkerSpec, **other: object) -> WorkerSpec:
    engine = EngineSpec(memory_bytes=1 << 22, block_size=4, max_batched_tokens=64)
    model = str(tiny("llama", num_hidden_layers=6))
    return replace(spec, model=model, served_name="tiny", fake=False, num_threads=1, engine=engine, **other)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
async def test_real_drafters_that_are_killed_in_the_midst_of_answers_change_none_and_come_back(num_ranks: int) -> None:
    """As many layers attend at once as there are ranks; answers in float32, several side by side."""
    gang = [real(DRAFT, gang=GangSpec(layer_parallel=num_ranks, rank=rank)) for rank in range(num_ranks)]
    async with drafted_workers(real(MIXED), *gang) as running:
        texts = [list(range(3, 30 + 5 * number)) for number in range(4)]
        asked: dict[str, object] = {"decode": "mixed-0", "max_tokens": 150}
        plain = [await running.answer(running.submit(text, **asked)) for text in texts]  # type: ignore[arg-type]
        for is_killed in (True, False):
            names = [running.submit(text, draft="draft-0", **asked) for text in texts]  # type: ignore[arg-type]
            if is_killed:
                await running.until(names[0], 20)
                await running.kill("draft-0")
            assert [await running.answer(name) for name in names] == plain
            if is_killed:
                before = await saved_steps(running, "mixed-0")
                await running.start(*gang)
        assert await saved_steps(running, "mixed-0") > before


@pytest.mark.slow
async def test_a_layer_parallel_gang_drafts_for_a_disaggregated_model() -> None:
    """Of real models: the draft is the target's own, with layers that attend at once and KV that is read again."""
    gang = [real(DRAFT, gang=GangSpec(layer_parallel=2, rank=rank)) for rank in range(2)]
    async with drafted_workers(real(PREFILL), real(DECODE), *gang) as running:
        text = list(range(3, 90))
        for sampling in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 7}):
            asked = {"prefill": "prefill-0", "decode": "decode-0", "max_tokens": 60} | sampling
            plain = await running.answer(running.submit(text, **asked))  # type: ignore[arg-type]
            drafted = [running.submit(text[:length], draft="draft-0", **asked) for length in (87, 30)]  # type: ignore[arg-type]
            assert await running.answer(drafted[0]) == plain
            assert len(await running.answer(drafted[1])) == 60
        state = await running.state("decode-0")
        assert state.num_guess_hits > 0
        assert sum(state.accepted_by_place) > 0
