"""A hybrid model on workers in processes of their own: a killed one changes no token and leaks no slot."""

import asyncio
from dataclasses import replace

import pytest

from cluster.config.schema import RouterConfig
from cluster.profiling.local_cluster import LocalCluster, greedy, local_cluster
from tests.models import tiny
from tests.unit.model.test_hybrid_engine import FAMILY, NUM_OUTPUTS, expected, prompts, spec_of
from workers.spec import KVSpec, Role, WorkerSpec

ROUNDS = 4  # of all prompts


def _spec(role: Role, index: int) -> WorkerSpec:
    spec = replace(spec_of(tiny(FAMILY), role), worker_id=f"{role.value}-{index}", kv=KVSpec(lease_s=2.0))
    return replace(spec, secret="s3cret", num_threads=1)


async def _answers(cluster: LocalCluster) -> list[list[int]]:
    asked = [cluster.answer(prompt, greedy(NUM_OUTPUTS)) for prompt in prompts() * ROUNDS]
    return [choices[0].token_ids for choices in await asyncio.gather(*asked)]


async def _killed(victim: str) -> None:
    specs = [_spec(Role.PREFILL, 0), _spec(Role.PREFILL, 1), _spec(Role.DECODE, 0), _spec(Role.DECODE, 1)]
    async with local_cluster(specs, RouterConfig(disaggregate_over_tokens=4)) as cluster:
        asking = asyncio.create_task(_answers(cluster))
        while sum(view.state.num_output_tokens for view in cluster.dispatcher.states() if view.state) < 40:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        worker = cluster.workers.pop(victim)
        worker.kill()
        assert await asking == expected(FAMILY) * ROUNDS
        async with asyncio.timeout(15):  # leases of what the dead one held run out
            while not _all_free(cluster):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def _all_free(cluster: LocalCluster) -> bool:
    states = [
        view.state for view in cluster.dispatcher.states() if view.state and view.entry.worker_id in cluster.workers
    ]
    return all(
        state.num_free_blocks == state.num_blocks and 0 < state.num_states == state.num_free_states for state in states
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["prefill-0", "decode-1"])
def test_a_killed_worker_changes_no_token_and_leaks_no_slot(victim: str) -> None:
    asyncio.run(_killed(victim))
