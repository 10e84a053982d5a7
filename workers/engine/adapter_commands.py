"""Loads and unloads adapters between steps, at the word of whoever keeps the cluster's table. From any thread."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from baton.errors import BatonError, InternalError, InvalidRequestError
from workers.adapters.adapter import AdapterSpec
from workers.engine.adapter_table import AdapterTable
from workers.engine.jobs import JobTable
from workers.model.contract import ModelRunner

logger = logging.getLogger(__name__)
T = TypeVar("T")


class AdapterCommands:
    """
    Args:
        command: Has something done by the engine's thread before its next step.
    """

    def __init__(
        self,
        *,
        runner: ModelRunner,
        table: AdapterTable,
        jobs: JobTable,
        command: Callable[[Callable[[], None]], None],
    ) -> None:
        self._runner = runner
        self._table = table
        self._jobs = jobs
        self._command = command

    def load(self, adapter: AdapterSpec) -> Future[None]:
        """The next step waits until its weights are read. Idempotent.

        Raises: ConfigError: as `ModelRunner.load_adapter`. InvalidRequestError: requests still run with another of its
            name.
        """
        return self._soon(lambda: self._load(adapter))

    def retire(self, name: str) -> Future[None]:
        """Tells nobody of it any more; who asks for it is served all the same. Idempotent."""
        return self._soon(lambda: self._table.retire(name))

    def num_uses(self, name: str) -> Future[int]:
        """Sequences that are here with it, waiting ones too."""
        return self._soon(lambda: self._num_uses(name))

    def remove(self, name: str) -> Future[bool]:
        """Frees its memory, unless it is in use: then False. Idempotent."""
        return self._soon(lambda: self._remove(name))

    def _soon(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._command(lambda: self._run(work, future))
        return future

    @staticmethod
    def _run(work: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(work())
        except BatonError as error:
            future.set_exception(error)
        except Exception as error:  # of torch: out of memory above all; what it has not loaded, nobody names
            logger.exception("an adapter was not loaded or unloaded")
            future.set_exception(InternalError(f"the adapter was not loaded or unloaded: {error}"))

    def _load(self, adapter: AdapterSpec) -> None:
        held = self._table.held.get(adapter.name)
        if held is not None and held.content_hash == adapter.content_hash:
            self._table.show(adapter.name)
            return
        if held is not None and not self._remove(adapter.name):
            raise InvalidRequestError(
                f"lora_name: {adapter.name!r} is being unloaded, and {self._num_uses(adapter.name)} answers are still "
                "written with it; try again later, or give another name",
                "lora_name",
            )
        self._runner.load_adapter(self._table.free_id(), adapter)
        self._table.add(adapter)

    def _num_uses(self, name: str) -> int:
        held = self._table.held.get(name)
        return 0 if held is None else sum(job.seq.adapter_id == held.adapter_id for job in self._jobs)

    def _remove(self, name: str) -> bool:
        if self._num_uses(name):
            return False
        held = self._table.remove(name)
        if held is not None:
            self._runner.unload_adapter(held.adapter_id)
        return True
