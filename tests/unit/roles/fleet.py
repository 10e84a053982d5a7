"""Workers in this process, each with its engine's thread, server and links, asked through the real dispatcher."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random

from baton.v1.inference_pb2 import FINISH_REASON_LENGTH, SamplingParams
from baton.v1.worker_pb2 import WorkerState
from cluster.config.schema import HealthConfig, RouterConfig
from cluster.router.dispatcher import Dispatcher, DispatchRequest
from cluster.router.workers import WorkerEntry
from workers.actor import WorkerActor
from workers.role_rules import RoleChanged
from workers.spec import EngineSpec, KVSpec, Role, SpeculationSpec, WorkerSpec

SECRET = "s3cret"
PATIENCE_S = 60.0
FLIP_TIMEOUT_S = 20.0
_numbers = itertools.count()


def fake_spec(role: Role, index: int, **changes: object) -> WorkerSpec:
    settings: dict[str, object] = {
        "worker_id": f"{role.value}-{index}",
        "role": role,
        "model": "fake",
        "served_name": "m",
        "dtype": "float32",
        "device": "cpu",
        "engine": EngineSpec(block_size=4, memory_bytes=1 << 20, max_batched_tokens=64, max_sequences=16),
        "kv": KVSpec(lease_s=10.0),
        "speculation": SpeculationSpec(method="ngram", max_tokens=4),
        "secret": SECRET,
        "fake": True,
        "fake_step_s": 0.002,
    }
    return WorkerSpec(**{**settings, **changes})  # type: ignore[arg-type]


class Workers:
    """Args:
    router: Keys of the config that are not the default.
    """

    def __init__(self, specs: Sequence[WorkerSpec], **router: int) -> None:
        self.actors = {spec.worker_id: WorkerActor(spec, f"life-{spec.worker_id}") for spec in specs}
        self._entries: list[WorkerEntry] = []
        self.dispatcher = Dispatcher(
            ingress_id=f"ingress-{next(_numbers)}",
            secret=SECRET,
            config=RouterConfig(**({"disaggregate_over_tokens": 8} | router)),
            health=HealthConfig(start_timeout_s=10.0),
            fetch_workers=self._fetch,
            rng=Random(0),
        )

    async def _fetch(self) -> list[WorkerEntry]:
        return list(self._entries)

    async def start(self) -> None:
        for name, actor in self.actors.items():
            address = await actor.start()
            self._entries.append(
                WorkerEntry(worker_id=name, incarnation=actor.incarnation, role=actor.spec.role, address=address)
            )
        await self.dispatcher.start()
        await until(lambda: all(view.up for view in self.dispatcher.states()))

    async def close(self) -> None:
        await self.dispatcher.close()
        for actor in self.actors.values():
            await actor.stop()

    async def flip(self, worker_id: str, role: Role, timeout_s: float = FLIP_TIMEOUT_S) -> RoleChanged:
        return await self.actors[worker_id].set_role(role, timeout_s)

    async def state(self, worker_id: str) -> WorkerState:
        return WorkerState.FromString(await self.actors[worker_id].state())

    def role(self, worker_id: str) -> int:
        """As the ingress knows it."""
        view = next(view for view in self.dispatcher.states() if view.entry.worker_id == worker_id)
        assert view.state is not None
        return view.state.role

    async def ask(self, prompt: Sequence[int], max_tokens: int, *, n: int = 1, **sampling: object) -> list[list[int]]:
        """The tokens of each choice, checked to come in order and to end as they should."""
        fields = {"temperature": 0.0, "seed": 1, "ignore_eos": True} | sampling
        request = DispatchRequest(
            request_id=f"r{next(_numbers)}",
            prompt_token_ids=prompt,
            sampling=SamplingParams(n=n, max_tokens=max_tokens, **fields),  # type: ignore[arg-type]
            deadline_s=time.monotonic() + PATIENCE_S,
        )
        tokens: list[list[int]] = [[] for _ in range(n)]
        async with contextlib.aclosing(self.dispatcher.generate(request)) as stream:
            async for outputs in stream:
                for output in outputs:
                    assert output.index == len(tokens[output.choice])
                    tokens[output.choice] += output.token_ids
                    assert output.finish_reason in (0, FINISH_REASON_LENGTH), output.error.message
        return tokens

    async def check_clean(self) -> None:
        """No worker holds anything."""
        for actor in self.actors.values():
            engine = actor._engine
            await until(lambda engine=engine: engine.load.is_idle)  # type: ignore[misc]
            assert engine.load.num_free_blocks == engine.runner.num_blocks  # type: ignore[union-attr]


@contextlib.asynccontextmanager
async def running(specs: Sequence[WorkerSpec], **router: int) -> AsyncIterator[Workers]:
    workers = Workers(specs, **router)
    try:
        await workers.start()
        yield workers
        await workers.check_clean()
    finally:
        await workers.close()


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what tests look at sets no event
            await asyncio.sleep(0.005)
