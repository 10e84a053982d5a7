"""Roles that change under load: every answer is what it would have been, none fails, none counts as a loss."""

import asyncio
import functools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from baton.errors import InvalidRequestError, UnavailableError
from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_PREFILL
from tests.models import tiny
from tests.unit.model.driver import generate, prompts_of
from tests.unit.roles.fleet import Workers, fake_spec, running, until
from workers.spec import EngineSpec, GangSpec, Role, WorkerSpec

THREE = ((Role.PREFILL, 0), (Role.DECODE, 0), (Role.DECODE, 1))
LENGTHS = (3, 9, 17, 40)
NUM_OUTPUTS = 48


def fakes(**changes: object) -> list[WorkerSpec]:
    return [fake_spec(role, index, **changes) for role, index in THREE]


def reals(folder: Path) -> list[WorkerSpec]:
    engine = EngineSpec(block_size=4, memory_bytes=4 << 20, max_model_len=128, max_batched_tokens=32, max_sequences=16)
    model = {"model": str(folder), "fake": False, "fake_step_s": 0.0, "engine": engine, "num_threads": 1}
    return [fake_spec(role, index, **model) for role, index in THREE]


@functools.cache
def prompts() -> list[list[int]]:
    return prompts_of(random.Random(5), LENGTHS, 160)


async def flip_while(workers: Workers, answers: "asyncio.Future[list[list[list[int]]]]", roles: Sequence[Role]) -> int:
    """Changes decode-1 to and fro until all is answered; how many answers went on elsewhere."""
    num_moved = turn = 0
    engine = workers.actors["decode-1"]._engine
    assert engine is not None
    while not answers.done():
        if roles[turn % len(roles)] is Role.PREFILL:
            await until(lambda: engine.load.num_running > 1 or answers.done())
        changed = await workers.flip("decode-1", roles[turn % len(roles)])
        num_moved, turn = num_moved + changed.num_moved, turn + 1
        await asyncio.sleep(0.01)
    return num_moved


async def test_a_worker_that_changes_to_and_fro_changes_no_token() -> None:
    folder = tiny("llama")
    async with running(reals(folder), max_retries=0) as workers:
        seeded = {"temperature": 0.9, "top_p": 0.9, "seed": 7}
        asked = [(prompt, sampling) for prompt in prompts() for sampling in ({}, {}, seeded)]
        answers = asyncio.gather(*(workers.ask(prompt, NUM_OUTPUTS, **sampling) for prompt, sampling in asked))
        num_moved = await flip_while(workers, answers, (Role.PREFILL, Role.DECODE))
        found = [(sampling, answer) for (_, sampling), answer in zip(asked, await answers, strict=True)]
        assert [answer for sampling, answer in found if not sampling] == [
            [one.tokens] for one in generate(folder, prompts(), NUM_OUTPUTS) for _ in range(2)
        ]
        assert [answer for sampling, answer in found if sampling] == [
            await workers.ask(prompt, NUM_OUTPUTS, **seeded) for prompt in prompts()
        ]
        assert num_moved > 0
        assert workers.dispatcher.counters.num_retries >= num_moved
        assert [(await workers.state(name)).num_failed_transfers for name in workers.actors] == [0, 0, 0]


async def test_several_choices_and_all_roles_in_turn() -> None:
    async with running(fakes(), max_retries=0) as workers:
        want = [await workers.ask(prompt, 40, n=3, temperature=1.0) for prompt in prompts()]
        answers = asyncio.gather(*(workers.ask(prompt, 40, n=3, temperature=1.0) for prompt in prompts() * 2))
        await flip_while(workers, answers, (Role.PREFILL, Role.MIXED, Role.DECODE, Role.MIXED))
        assert await answers == want * 2


async def test_what_was_written_is_read_again_from_the_workers_own_cache() -> None:
    async with running([fake_spec(Role.PREFILL, 0), fake_spec(Role.DECODE, 0)]) as workers:
        answer = asyncio.create_task(workers.ask(list(range(1, 21)), 400))
        await until(lambda: workers.actors["decode-0"]._engine.load.num_output_tokens > 60)  # type: ignore[union-attr]
        await workers.flip("prefill-0", Role.DECODE)
        hits = (await workers.state("decode-0")).num_prefix_hit_tokens
        changed = await workers.flip("decode-0", Role.PREFILL)
        assert changed.num_moved == 1
        await until(lambda: (workers.role("decode-0"), workers.role("prefill-0")) == (ROLE_PREFILL, ROLE_DECODE))
        assert len((await answer)[0]) == 400
        state = await workers.state("decode-0")
        assert state.num_prefix_hit_tokens - hits > 20 + 30  # what it had written too
        assert workers.dispatcher.counters.num_retries == 1


async def test_a_worker_that_comes_to_decode_drafts_as_the_config_says() -> None:
    repeating = [5, 6, 7, 8] * 6
    async with running([fake_spec(Role.PREFILL, 0)]) as workers:
        assert not (await workers.state("prefill-0")).drafters
        await workers.flip("prefill-0", Role.DECODE)
        await workers.ask(repeating, 60, logit_bias={5: 100.0})
        state = await workers.state("prefill-0")
        assert list(state.drafters) == ["ngram"]
        assert sum(state.accepted_by_place) > 0


async def test_a_flip_that_the_step_in_flight_holds_up_is_given_up_and_changes_nothing() -> None:
    async with running(fakes(fake_step_s=0.5)) as workers:
        answer = asyncio.create_task(workers.ask(list(range(1, 6)), 3))
        busy = {name: actor._engine for name, actor in workers.actors.items()}
        await until(lambda: any(engine.load.num_running for engine in busy.values()))  # type: ignore[union-attr]
        name = next(name for name, engine in busy.items() if engine.load.num_running)  # type: ignore[union-attr]
        with pytest.raises(UnavailableError, match=f"{name} ended no step within 0.05 s; it stays what it was"):
            await workers.flip(name, Role.PREFILL, timeout_s=0.05)
        assert len((await answer)[0]) == 3
        assert (await workers.state(name)).role == ROLE_DECODE
        assert workers.dispatcher.counters.num_retries == 0


async def test_a_flip_whose_drafter_cannot_be_made_changes_nothing() -> None:
    spec = fake_spec(Role.PREFILL, 0)
    selfish = replace(spec, speculation=replace(spec.speculation, method="self"))
    async with running([selfish, fake_spec(Role.DECODE, 0)]) as workers:
        with pytest.raises(Exception, match="'self' needs a model with layers"):
            await workers.flip("prefill-0", Role.DECODE)
        assert (await workers.state("prefill-0")).role == ROLE_PREFILL
        assert len((await workers.ask(list(range(1, 30)), 5))[0]) == 5


async def test_a_worker_says_which_roles_are_not_for_it() -> None:
    gang = GangSpec(sequence_parallel=2)
    workers = Workers(fakes())
    with pytest.raises(InvalidRequestError, match="worker: prefill-0 takes no requests, or has not started"):
        await workers.flip("prefill-0", Role.DECODE)
    from workers.role_rules import check_role

    with pytest.raises(InvalidRequestError, match="role: prefill-0 cannot be decode: its 2 ranks divide prompts"):
        check_role("prefill-0", Role.PREFILL, gang, Role.DECODE)
    check_role("prefill-0", Role.DECODE, gang, Role.PREFILL)
    with pytest.raises(InvalidRequestError, match="worker: draft-0 holds a draft model and takes no requests"):
        check_role("draft-0", Role.DRAFT, GangSpec(), Role.DECODE)
    with pytest.raises(InvalidRequestError, match="role: draft is none that a worker can change to; give prefill"):
        check_role("decode-0", Role.DECODE, GangSpec(), Role.DRAFT)
