"""The Ray actor around one worker: makes a `workers.actor.WorkerActor` in its process, and nobody else imports it.

`start` may be called again: a controller that came back asks for the same facts.
"""

import asyncio
import importlib
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

from workers.spec import WorkerSpec

WORKER_CLASS = "workers.actor:WorkerActor"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What the controller cannot know before the process runs."""

    address: str  # host:port of its gRPC server
    pid: int
    node_id: str
    cores: tuple[int, ...]


class WorkerShell:
    """Every method but `start` needs `start` to have returned."""

    def __init__(self, worker_class: str, spec: WorkerSpec, incarnation: str) -> None:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
        module, _, name = worker_class.partition(":")
        self._spec = spec
        self._worker: Any = getattr(importlib.import_module(module), name)(spec, incarnation)
        self._starting: asyncio.Task[WorkerFacts] | None = None

    async def start(self) -> WorkerFacts:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> WorkerFacts:
        import ray

        address = await self._worker.start()
        node_id = ray.get_runtime_context().get_node_id()
        return WorkerFacts(address=address, pid=os.getpid(), node_id=node_id, cores=self._spec.cores)

    async def state(self) -> bytes:
        """A serialized worker_pb2.WorkerState."""
        state: bytes = await self._worker.state()
        return state

    async def drain(self, timeout_s: float) -> None:
        await self._worker.drain(timeout_s)

    async def stop(self) -> None:
        await self._worker.stop()
