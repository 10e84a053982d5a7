"""Workers that note their steps, dispatchers over them, and what they noted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from baton.errors import UnavailableError
from cluster.config.schema import RouterConfig
from cluster.profiling.local_cluster import LocalCluster, WorkerProcess, by_worker, greedy
from cluster.profiling.points import NotedStep
from workers.spec import WorkerSpec

MODULE = "workers.profiled"
REQUEST_TIMEOUT_S = 120.0


@contextlib.asynccontextmanager
async def profiled_workers(specs: Sequence[WorkerSpec]) -> AsyncIterator[dict[str, WorkerProcess]]:
    """By id; each runs until the block ends.

    Args:
        specs: Of all ranks.
    Raises: UnavailableError: one did not start.
    """
    started = {
        leader.worker_id: WorkerProcess(leader, module=MODULE, others=others) for leader, *others in by_worker(specs)
    }
    try:
        for worker in started.values():
            try:
                await asyncio.to_thread(worker.wait_ready)
            except RuntimeError as error:
                raise UnavailableError(str(error)) from error
        yield started
    finally:
        for worker in started.values():
            await asyncio.to_thread(worker.stop)


@contextlib.asynccontextmanager
async def dispatching(
    workers: Sequence[WorkerProcess], *, disaggregate_over_tokens: int = 0
) -> AsyncIterator[LocalCluster]:
    """A dispatcher of its own over workers that run already, and go on running."""
    cluster = LocalCluster(RouterConfig(disaggregate_over_tokens=disaggregate_over_tokens), workers[0].spec.secret)
    cluster.workers = {worker.spec.worker_id: worker for worker in workers}
    try:
        await cluster.dispatcher.start()
        await cluster.all_up()
        yield cluster
    finally:
        await cluster.dispatcher.close()


async def taken(worker: WorkerProcess) -> tuple[list[NotedStep], float]:
    """The worker's steps since it was asked last, and seconds for which its engine waited for a core."""
    answer = await asyncio.to_thread(worker.ask)
    return [NotedStep(*step) for step in answer["steps"]], answer["waited_s"]


async def ask(cluster: LocalCluster, prompt: Sequence[int], num_outputs: int) -> None:
    async for _ in cluster.generate(prompt, greedy(num_outputs), REQUEST_TIMEOUT_S):
        pass
