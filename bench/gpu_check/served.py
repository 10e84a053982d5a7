"""A prefill and a decode worker as processes, with all that a cluster runs but Ray: they answer what generate does."""

import asyncio
import random
from dataclasses import replace

from bench.gpu_check.check import Check, require
from tests.models import tiny
from tests.unit.model.driver import generate, make_spec, prompts_of
from workers.spec import Role

LENGTHS = (2, 9, 20, 33, 47)
NUM_OUTPUTS = 12
SECRET = "s3cret"


def run(check: Check) -> None:
    require("grpc", "baton.v1.kv_pb2", "workers.service", "cluster.profiling.local_cluster")
    for family in ("llama",) if check.is_dry else ("llama", "gemma2"):
        with check.item(family):
            _compare(check, family)


def _compare(check: Check, family: str) -> None:
    prompts = prompts_of(random.Random(8), LENGTHS, 160)
    answers, num_bytes = asyncio.run(_serve(check.device, family, prompts))
    expected = [e.tokens for e in generate(tiny(family), prompts, NUM_OUTPUTS, device=check.device)]
    differing = sum(
        a != b for ours, theirs in zip(answers, expected, strict=True) for a, b in zip(ours, theirs, strict=False)
    )
    is_whole = all(len(tokens) == NUM_OUTPUTS for tokens in answers)
    check.judge(
        family,
        differing == 0 and is_whole and num_bytes > 0,
        f"{differing} of {len(prompts) * NUM_OUTPUTS} tokens differ, {num_bytes} bytes of KV handed over",
        differing=differing,
        kv_bytes=num_bytes,
    )


async def _serve(device: str, family: str, prompts: list[list[int]]) -> tuple[list[list[int]], int]:
    """Each prompt's tokens, and how many bytes of KV the decode worker was sent."""
    from cluster.config.schema import RouterConfig
    from cluster.profiling.local_cluster import greedy, local_cluster

    base = replace(make_spec(tiny(family), device=device), secret=SECRET)
    specs = [replace(base, worker_id=f"{role}-0", role=role) for role in (Role.PREFILL, Role.DECODE)]
    async with local_cluster(specs, RouterConfig(disaggregate_over_tokens=1)) as cluster:
        answers = await asyncio.gather(*(cluster.answer(prompt, greedy(NUM_OUTPUTS)) for prompt in prompts))
        await asyncio.sleep(0.5)  # for the next load report
        states = [view.state for view in cluster.dispatcher.states() if view.state is not None]
    return [found[0].token_ids for found in answers], sum(state.kv_bytes_received for state in states)
