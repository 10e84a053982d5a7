"""The Ray actor around one worker: makes a `workers.actor.WorkerActor` in its process, and nobody else imports it.

`start` may be called again: a controller that came back asks for the same facts.
"""

import asyncio
import importlib
import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.models.find import find_model
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
        self._incarnation = incarnation
        self._class: Any = getattr(importlib.import_module(module), name)
        self._worker: Any = None
        self._starting: asyncio.Task[WorkerFacts] | None = None

    async def start(self) -> WorkerFacts:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> WorkerFacts:
        import ray

        spec = await asyncio.to_thread(on_this_machine, self._spec)
        self._worker = self._class(spec, self._incarnation)
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


def on_this_machine(spec: WorkerSpec) -> WorkerSpec:
    """The controller found the model's folder on the head node: another node fetches or finds it again by name."""
    if spec.fake or not spec.model_name or Path(spec.model).is_dir():
        return spec
    return replace(spec, model=str(find_model(spec.model_name)))
