"""A worker without engine and model: what the fleet sees of one, and switches to make it misbehave."""

import asyncio
import os
from pathlib import Path

from baton.errors import ConfigError
from baton.v1.worker_pb2 import WorkerState
from workers.spec import WorkerSpec


class FakeWorker:
    """The folder FAKE_WORKERS holds its switches: `broken` makes starts fail, `wedged-<incarnation>` stops progress."""

    def __init__(self, spec: WorkerSpec, incarnation: str) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.folder = Path(os.environ["FAKE_WORKERS"])
        self.draining = False

    def lobby(self) -> str:
        return "127.0.0.1:1"

    async def start(self) -> str:
        if (self.folder / "broken").exists():
            raise ConfigError("model: no weights in the folder; give another")
        (self.folder / f"env-{self.spec.worker_id}").write_text(os.environ["OMP_NUM_THREADS"])
        return "127.0.0.1:1"

    async def state(self) -> bytes:
        wedged = (self.folder / f"wedged-{self.incarnation}").exists()
        return WorkerState(
            worker_id=self.spec.worker_id, draining=self.draining, since_progress_s=99.0 if wedged else 0.0
        ).SerializeToString()

    async def ended(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, timeout_s: float) -> None:
        self.draining = True
        while (self.folder / "busy").exists():  # noqa: ASYNC110, a file has no event
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        (self.folder / f"stopped-{self.incarnation}").touch()
