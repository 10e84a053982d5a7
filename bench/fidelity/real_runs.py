"""Real runs of this project's own cluster on this machine, to lay beside simulations of the same arrivals.

Worker processes and a dispatcher without Ray (`cluster.profiling.local_cluster`), pinned as the controller would pin
them. Prompts are random tokens; arrivals that share block hashes share those blocks' tokens.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from baton.errors import BatonError
from cluster.config.load import from_tree
from cluster.config.schema import BatonConfig
from cluster.contracts.simulation import Arrival, RequestRecord
from cluster.planner.load.lengths import Constant, Independent, Lognormal, Shape
from cluster.planner.load.workload import synthetic
from cluster.profiling.local_cluster import LocalCluster, greedy
from cluster.profiling.specs import worker_specs

WARM_UP_PROMPTS = (40, 600)  # tokens: read by decode alone, and handed over
TIMEOUT_S = 600.0
MAX_TOKEN_ID = 512  # every model that is served has as many


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """One comparison: a config, and what is asked of it."""

    name: str
    config: BatonConfig
    arrivals: Sequence[Arrival]


def run_for_real(config: BatonConfig, arrivals: Sequence[Arrival]) -> list[RequestRecord]:
    """Starts the config's workers, sends each request at its time, ends them.

    Times are seconds since the workload's time 0, as this process saw them; a request's arrival is when it was sent:
    timers of a loop come up to a millisecond late, which is no part of what the cluster takes.

    Raises:
        RuntimeError: A worker did not start.
    """
    return asyncio.run(_run(config, arrivals))


async def _run(config: BatonConfig, arrivals: Sequence[Arrival]) -> list[RequestRecord]:
    cluster = LocalCluster(config.router)
    try:
        await cluster.start(worker_specs(config))
        await cluster.dispatcher.start()
        await cluster.all_up()
        await _warm_up(cluster)
        prompts = [prompt_of(index, arrival, config.engine.block_size) for index, arrival in enumerate(arrivals)]
        start_s = time.monotonic() + 0.5
        return list(
            await asyncio.gather(
                *(
                    _answer(cluster, index, arrival, prompt, start_s)
                    for index, (arrival, prompt) in enumerate(zip(arrivals, prompts, strict=True))
                )
            )
        )
    finally:
        await cluster.close()


async def _warm_up(cluster: LocalCluster) -> None:
    """What first steps and a first link pay for, on every worker."""
    rng = np.random.default_rng(1)
    for num_tokens in WARM_UP_PROMPTS:
        prompts = [_tokens(rng, num_tokens) for _ in range(2 * len(cluster.workers))]
        await asyncio.gather(*(cluster.answer(prompt, greedy(4), TIMEOUT_S) for prompt in prompts))


async def _answer(
    cluster: LocalCluster, index: int, arrival: Arrival, prompt: Sequence[int], start_s: float
) -> RequestRecord:
    record = RequestRecord(
        index=index,
        arrived_s=arrival.at_s,
        num_prompt_tokens=arrival.num_prompt_tokens,
        num_output_tokens=arrival.num_output_tokens,
    )
    await asyncio.sleep(start_s + arrival.at_s - time.monotonic())
    record.arrived_s = time.monotonic() - start_s
    num_tokens = 0
    try:
        async for outputs in cluster.generate(prompt, greedy(arrival.num_output_tokens), TIMEOUT_S, f"real-{index}"):
            now_s = time.monotonic() - start_s
            if math.isnan(record.first_token_s):
                record.first_token_s = now_s
                record.num_cached_tokens = outputs[0].num_cached_tokens
            num_tokens += sum(len(output.token_ids) for output in outputs)
            record.finished_s = now_s
    except BatonError as error:
        record.error = error.code
        record.finished_s = math.nan
    assert record.error or num_tokens == arrival.num_output_tokens, f"{index}: {num_tokens} tokens"
    return record


def prompt_of(index: int, arrival: Arrival, block_size: int) -> list[int]:
    """Tokens of the arrival's length: a hashed block's follow from its hash, all others from the request's number."""
    tokens: list[int] = []
    for name in arrival.block_hashes:
        tokens += _tokens(np.random.default_rng([7, name]), block_size)
    rest = np.random.default_rng([11, index])
    return tokens + _tokens(rest, arrival.num_prompt_tokens - len(tokens))


def _tokens(rng: np.random.Generator, count: int) -> list[int]:
    tokens: list[int] = rng.integers(1, MAX_TOKEN_ID, count).tolist()
    return tokens


# The demo model's context is 2048. Rates go from light to where one of the two cores is saturated.
CHAT = Independent(
    prompt=Lognormal(mean=300, median=220, max_tokens=1200), output=Lognormal(mean=80, median=60, max_tokens=250)
)
LONG_PROMPTS = Independent(prompt=Lognormal(mean=1300, median=1250, max_tokens=1800), output=Constant(value=20))
SHARED = Independent(
    prompt=Lognormal(mean=60, median=45, max_tokens=200), output=Lognormal(mean=60, median=45, max_tokens=200)
)
SPLIT = {"prefill": {"workers": 1}, "decode": {"workers": 1}}
MIXED = {"mixed": {"workers": 2}}  # co-located: as many workers, and cores, as the split has


def set_ups(*, seconds: float = 20.0, seed: int = 0) -> list[SetUp]:
    """The comparisons, each with arrivals for about `seconds`."""
    rows: list[tuple[str, dict[str, object], Shape, float, dict[str, int]]] = [
        ("split, light", {"pools": SPLIT}, CHAT, 3, {}),
        ("split, middle", {"pools": SPLIT}, CHAT, 8, {}),
        ("split, high", {"pools": SPLIT}, CHAT, 13, {}),
        ("split, saturated", {"pools": SPLIT}, CHAT, 22, {}),
        ("co-located, light", {"pools": MIXED}, CHAT, 3, {}),
        ("co-located, middle", {"pools": MIXED}, CHAT, 8, {}),
        ("co-located, high", {"pools": MIXED}, CHAT, 13, {}),
        ("co-located, saturated", {"pools": MIXED}, CHAT, 22, {}),
        ("co-located, small chunks", {"pools": MIXED, "engine": {"max_batched_tokens": 128}}, CHAT, 8, {}),
        ("co-located, whole prompts", {"pools": MIXED, "engine": {"chunked_prefill": False}}, CHAT, 8, {}),
        ("split, long prompts", {"pools": SPLIT}, LONG_PROMPTS, 3, {}),
        ("split, shared prefixes", {"pools": SPLIT}, SHARED, 8, {"num_shared_tokens": 512, "num_groups": 4}),
        ("co-located, shared prefixes", {"pools": MIXED}, SHARED, 8, {"num_shared_tokens": 512, "num_groups": 4}),
    ]
    return [
        SetUp(
            name=name,
            config=from_tree(tree | {"speculation": {"method": "none"}}),  # as simulated
            arrivals=synthetic(
                shape,
                rate=rate,
                num_requests=max(round(rate * seconds), 2),
                rng=np.random.default_rng([seed, number]),
                **shared,
            ),
        )
        for number, (name, tree, shape, rate, shared) in enumerate(rows)
    ]
