"""Workers of several ranks on one GPU, which they share, with all that a cluster runs but Ray: generate's tokens.

Ranks that share a GPU add up over gloo; NCCL takes one rank per GPU.
"""

import asyncio
import random
from dataclasses import replace

from bench.gpu_check.check import Check, require
from tests.models import tiny
from tests.unit.model.driver import generate, make_spec, prompts_of
from workers.spec import GangSpec

LENGTHS = (2, 9, 20, 33, 47)
NUM_OUTPUTS = 12
SECRET = "s3cret"


def run(check: Check) -> None:
    require("grpc", "baton.v1.kv_pb2", "workers.service", "cluster.profiling.local_cluster")
    for family, size in (("llama", 2),) if check.is_dry else (("llama", 2), ("gemma2", 2), ("gpt_oss", 4)):
        with check.item(f"{family} tp{size}"):
            _compare(check, family, size)


def _compare(check: Check, family: str, size: int) -> None:
    prompts = prompts_of(random.Random(8), LENGTHS, 160)
    answers = asyncio.run(_serve(check.device, family, size, prompts))
    expected = [e.tokens for e in generate(tiny(family), prompts, NUM_OUTPUTS, device=check.device)]
    pairs = [(a, b) for ours, theirs in zip(answers, expected, strict=True) for a, b in zip(ours, theirs, strict=True)]
    differing = sum(a != b for a, b in pairs)
    text = f"{differing} of {len(pairs)} tokens differ"
    check.judge(f"{family} tp{size}", differing == 0, text, differing=differing)


async def _serve(device: str, family: str, size: int, prompts: list[list[int]]) -> list[list[int]]:
    from cluster.profiling.local_cluster import greedy, local_cluster

    base = replace(make_spec(tiny(family), device=device), secret=SECRET)
    specs = [replace(base, gang=GangSpec(tensor_parallel=size, rank=rank, shares_device=True)) for rank in range(size)]
    async with local_cluster(specs) as cluster:
        answers = await asyncio.gather(*(cluster.answer(prompt, greedy(NUM_OUTPUTS)) for prompt in prompts))
    return [found[0].token_ids for found in answers]
