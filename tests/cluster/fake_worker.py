"""A worker without engine and model: what the fleet sees of one, and switches to make it misbehave."""

import asyncio
import os
from pathlib import Path

from baton.errors import ConfigError
from baton.v1.worker_pb2 import WorkerState
from workers.engine.wire_roles import TO_WIRE
from workers.role_rules import RoleChanged
from workers.spec import Role, WorkerSpec


class FakeWorker:
    """The folder FAKE_WORKERS holds its switches: `broken` makes starts fail, `wedged-<incarnation>` stops progress,
    `hangs-changing` and `dies-changing` come when a role is half changed."""

    def __init__(self, spec: WorkerSpec, incarnation: str) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.folder = Path(os.environ["FAKE_WORKERS"])
        self.draining = False
        self.role = spec.role

    def lobby(self) -> str:
        return "127.0.0.1:1"

    async def start(self) -> str:
        if (self.folder / "broken").exists():
            raise ConfigError("model: no weights in the folder; give another")
        (self.folder / f"env-{self.spec.worker_id}").write_text(os.environ["OMP_NUM_THREADS"])
        return "127.0.0.1:1"

    async def loading(self) -> tuple[int, int]:
        return 0, 0

    async def state(self) -> bytes:
        wedged = (self.folder / f"wedged-{self.incarnation}").exists()
        return WorkerState(
            worker_id=self.spec.worker_id,
            role=TO_WIRE[self.role],
            draining=self.draining,
            since_progress_s=99.0 if wedged else 0.0,
        ).SerializeToString()

    async def set_role(self, role: Role, timeout_s: float) -> RoleChanged:
        was, self.role = self.role, role
        if (self.folder / "dies-changing").exists():
            os._exit(1)
        while (self.folder / "hangs-changing").exists():  # noqa: ASYNC110, a file has no event
            await asyncio.sleep(0.05)
        return RoleChanged(role=role, was=was, took_s=0.01)

    async def ended(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, timeout_s: float) -> None:
        self.draining = True
        while (self.folder / "busy").exists():  # noqa: ASYNC110, a file has no event
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        (self.folder / f"stopped-{self.incarnation}").touch()
