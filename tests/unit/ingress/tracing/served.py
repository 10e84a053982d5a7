"""A service over real fake-model workers, prefill and decode, in this process: all of the way but Ray and the proxy."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from cluster.config.schema import HealthConfig, RouterConfig
from cluster.ingress.service import Service
from cluster.ingress.tracing.ring import Ring
from cluster.ingress.tracing.visit import Visits
from cluster.router.dispatcher import Dispatcher
from cluster.router.workers import WorkerEntry
from tests.unit.ingress.fakes import DEMO, demo_tokenizer
from workers.actor import WorkerActor
from workers.spec import EngineSpec, KVSpec, Role, SpeculationSpec, WorkerSpec

SECRET = "tracing"


def worker(role: Role, *, step_s: float = 0.0, speculation: str = "none", chunk: int = 32) -> WorkerActor:
    spec = WorkerSpec(
        worker_id=f"{role.value}-0",
        role=role,
        model=str(DEMO),
        served_name="demo",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(block_size=16, memory_bytes=1 << 20, max_batched_tokens=chunk),
        kv=KVSpec(transport="grpc"),
        speculation=SpeculationSpec(method=speculation),
        secret=SECRET,
        fake=True,
        fake_step_s=step_s,
    )
    return WorkerActor(spec, f"{role.value}-life")


@asynccontextmanager
async def serving_workers(
    workers: Sequence[WorkerActor],
    *,
    visits: Visits | None = None,
    ring: Ring | None = None,
) -> AsyncIterator[Service]:
    entries = [
        WorkerEntry(
            worker_id=one.spec.worker_id,
            incarnation=one.incarnation,
            role=one.spec.role,
            address=await one.start(),
        )
        for one in workers
    ]

    async def fetch() -> Sequence[WorkerEntry]:
        return entries

    dispatcher = Dispatcher(
        ingress_id="ingress",
        secret=SECRET,
        config=RouterConfig(disaggregate_over_tokens=8),
        health=HealthConfig(),
        fetch_workers=fetch,
        rng=Random(0),
    )
    await dispatcher.start()
    service = Service(
        dispatcher=dispatcher,
        tokenizer=demo_tokenizer(),
        model="demo",
        router=RouterConfig(),
        ring=ring,
        visits=visits,
    )
    try:
        async with asyncio.timeout(20):
            while not all(view.state for view in dispatcher.states()):  # noqa: ASYNC110, it tells nobody
                await asyncio.sleep(0.01)
        yield service
    finally:
        service.close()
        await dispatcher.close()
        for one in workers:
            await one.stop()
