"""The Ray actor around one worker, or one rank of it: makes it in its process, and nobody else imports that.

`start` may be called again: a controller that came back asks for the same facts.
"""

import asyncio
import importlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baton.errors import BatonError, UnavailableError
from cluster.contracts.tuning import Tuning
from cluster.logs.setup import set_up
from cluster.models.find import find_model
from workers.adapters.adapter import AdapterSpec
from workers.role_rules import RoleChanged
from workers.spec import Role, WorkerSpec

logger = logging.getLogger(__name__)
WORKER_CLASS = "workers.rank:make_rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What the controller cannot know before the process runs."""

    address: str  # host:port of its gRPC server; empty: a rank that does not lead
    pid: int
    node_id: str
    node: str  # its address
    cores: tuple[int, ...]


class WorkerShell:
    """Every method but `start`, `lobby` and `loading` needs `start` to have returned.

    Args:
        worker_class: module:name of what makes a worker of spec and incarnation.
        leader: The shell of the gang's leader, which the other ranks ask for its lobby.
    """

    def __init__(self, worker_class: str, spec: WorkerSpec, incarnation: str, leader: Any = None) -> None:
        set_up()
        module, _, name = worker_class.partition(":")
        self._spec = spec
        self._incarnation = incarnation
        self._class: Any = getattr(importlib.import_module(module), name)
        self._leader = leader
        self._worker: Any = None
        self._making: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[WorkerFacts] | None = None

    async def start(self) -> WorkerFacts:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> WorkerFacts:
        import ray
        from ray.exceptions import RayError

        try:
            await self._made()
            address = await self._worker.start()
        except (BatonError, RayError):
            raise
        except Exception as error:  # of any library: not all of them can be sent to the controller
            logger.exception("the worker cannot start")
            raise UnavailableError(f"the worker cannot start: {type(error).__name__}: {error}") from None
        node_id = ray.get_runtime_context().get_node_id()
        node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return WorkerFacts(address=address, pid=os.getpid(), node_id=node_id, node=node, cores=self._spec.cores)

    async def loading(self) -> tuple[int, int]:
        """Bytes of the rank's weights that are in place, and of all; 0 while they are not known."""
        done, total = await self._worker.loading() if self._worker is not None else (0, 0)
        return done, total

    async def lobby(self) -> str:
        """Of a gang's leader: where the others come to."""
        await self._made()
        address: str = self._worker.lobby()
        return address

    async def ended(self) -> None:
        """Never returns: raises why this process is about to end; who waits learns at once of another death too."""
        await self._worker.ended()

    async def _made(self) -> None:
        if self._making is None:
            self._making = asyncio.create_task(self._make())
        await asyncio.shield(self._making)

    async def _make(self) -> None:
        spec = await asyncio.to_thread(on_this_machine, self._spec)
        if self._leader is not None:
            spec = replace(spec, gang=replace(spec.gang, lobby=await self._leader.lobby.remote()))
        self._worker = self._class(spec, self._incarnation)

    async def state(self) -> bytes:
        """A serialized worker_pb2.WorkerState."""
        state: bytes = await self._worker.state()
        return state

    async def load_adapter(self, adapter: AdapterSpec) -> None:
        await self._worker.load_adapter(adapter)

    async def retire_adapter(self, name: str) -> None:
        await self._worker.retire_adapter(name)

    async def num_adapter_uses(self, name: str) -> int:
        num_uses: int = await self._worker.num_adapter_uses(name)
        return num_uses

    async def remove_adapter(self, name: str) -> bool:
        removed: bool = await self._worker.remove_adapter(name)
        return removed

    async def tune(self, tuning: Tuning) -> None:
        """Of a leader that takes requests; see `Tuning`."""
        await self._worker.tune(tuning.max_batched_tokens, tuning.max_draft_tokens)

    async def set_role(self, role: Role, timeout_s: float) -> RoleChanged:
        changed: RoleChanged = await self._worker.set_role(role, timeout_s)
        return changed

    async def drain(self, timeout_s: float) -> None:
        await self._worker.drain(timeout_s)

    async def stop(self) -> None:
        await self._worker.stop()


def on_this_machine(spec: WorkerSpec) -> WorkerSpec:
    """The controller found the model's folder on the head node: another node fetches or finds it again by name."""
    if spec.fake or not spec.model_name or Path(spec.model).is_dir():
        return spec
    return replace(spec, model=str(find_model(spec.model_name)))
