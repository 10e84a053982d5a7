"""Workers of several ranks on one GPU, which they share, with all that a cluster runs but Ray: generate's tokens.

Ranks that share a GPU add up over gloo; NCCL takes one rank per GPU.
"""

import asyncio
import random
from dataclasses import replace

from bench.gpu_check.check import Check, require
from cluster.contracts.latency import Parallelism
from tests.models import tiny
from tests.unit.model.driver import generate, make_spec, prompts_of
from workers.spec import GangSpec

LENGTHS = (2, 9, 20, 33, 47)
NUM_OUTPUTS = 12
OVER_TOKENS = 16  # so that some prompts are divided and some are not
SECRET = "s3cret"
CASES = (
    ("llama", GangSpec(tensor_parallel=2)),
    ("gemma2", GangSpec(tensor_parallel=2)),
    ("gpt_oss", GangSpec(tensor_parallel=4)),
    ("qwen3_5_text", GangSpec(sequence_parallel=2, tensor_parallel=2)),
)


def run(check: Check) -> None:
    require("grpc", "baton.v1.kv_pb2", "workers.service", "cluster.profiling.local_cluster")
    for family, gang in CASES[:1] if check.is_dry else CASES:
        name = f"{family} {Parallelism(tensor=gang.tensor_parallel, sequence=gang.sequence_parallel)}"
        with check.item(name):
            _compare(check, name, family, gang)


def _compare(check: Check, name: str, family: str, gang: GangSpec) -> None:
    prompts = prompts_of(random.Random(8), LENGTHS, 160)
    answers = asyncio.run(_serve(check.device, family, gang, prompts))
    expected = [e.tokens for e in generate(tiny(family), prompts, NUM_OUTPUTS, device=check.device)]
    pairs = [(a, b) for ours, theirs in zip(answers, expected, strict=True) for a, b in zip(ours, theirs, strict=True)]
    differing = sum(a != b for a, b in pairs)
    check.judge(name, differing == 0, f"{differing} of {len(pairs)} tokens differ", differing=differing)


async def _serve(device: str, family: str, gang: GangSpec, prompts: list[list[int]]) -> list[list[int]]:
    from cluster.profiling.local_cluster import greedy, local_cluster

    base = replace(make_spec(tiny(family), device=device), secret=SECRET)
    base = replace(base, engine=replace(base.engine, sequence_parallel_over_tokens=OVER_TOKENS))
    specs = [replace(base, gang=replace(gang, rank=rank, shares_device=True)) for rank in range(gang.size)]
    async with local_cluster(specs) as cluster:
        answers = await asyncio.gather(*(cluster.answer(prompt, greedy(NUM_OUTPUTS)) for prompt in prompts))
    return [found[0].token_ids for found in answers]
