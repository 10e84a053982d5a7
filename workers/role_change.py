"""Changes what one worker does while it serves, without reading its weights again.

Who guesses ahead for a worker that comes to decode is chosen then, and kept: a draft model of its own is loaded the
first time, by the engine's thread between two steps, since nothing else may compute beside it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from baton.errors import UnavailableError
from workers.engine.engine import Engine
from workers.model.contract import ModelRunner
from workers.role_rules import RoleChanged, check_role
from workers.spec import Role, WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.speculation import DraftedSpeculation

logger = logging.getLogger(__name__)
LOOK_S = 0.005


class RoleChanges:
    """Of one worker, for its event loop.

    Args:
        speculation: Of the role that it was started in.
        told: The role of the newest load report.
    """

    def __init__(
        self,
        *,
        spec: WorkerSpec,
        runner: ModelRunner,
        engine: Engine,
        speculation: DraftedSpeculation | None,
        told: Callable[[], Role],
    ) -> None:
        self._spec = spec
        self._runner = runner
        self._engine = engine
        self._speculation = speculation
        self._is_chosen = spec.role.decodes
        self._told = told
        self._changing = asyncio.Lock()

    async def change(self, role: Role, timeout_s: float) -> RoleChanged:
        """One after the other. What fails has changed nothing.

        Args:
            timeout_s: For the step in flight to end.

        Raises:
            InvalidRequestError: as `check_role`.
            ConfigError: The draft model that it needs to decode cannot be loaded.
            UnavailableError: The step did not end in time.
        """
        check_role(self._spec.worker_id, self._spec.role, self._spec.gang, role)
        async with self._changing:
            was, began_s = self._told(), time.monotonic()
            if was is role:
                return RoleChanged(role=role, was=was)
            num_moved = await self._change(role, timeout_s)
            while self._told() is not role:  # noqa: ASYNC110, the engine is a thread
                await asyncio.sleep(LOOK_S)
            took_s = time.monotonic() - began_s
            logger.info(
                "role worker_id=%s from=%s to=%s moved=%d took_s=%.3f",
                *(self._spec.worker_id, was, role, num_moved, took_s),
            )
            return RoleChanged(role=role, was=was, num_moved=num_moved, took_s=took_s)

    async def _change(self, role: Role, timeout_s: float) -> int:
        future = self._engine.roles.change(role, lambda: self._prepare(role))
        waiting = asyncio.wrap_future(future)
        await asyncio.wait({waiting}, timeout=timeout_s)
        if not waiting.done() and future.cancel():
            raise UnavailableError(
                f"worker {self._spec.worker_id} ended no step within {timeout_s:g} s; it stays what it was; try again"
            )
        return await waiting

    def _prepare(self, role: Role) -> None:
        """Of the engine's thread."""
        if role.decodes and not self._is_chosen:
            self._speculation = choose_speculation(replace(self._spec, role=role), self._runner)
            self._is_chosen = True
        self._engine.speculate(self._speculation if role.decodes else None)
