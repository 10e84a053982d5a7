"""Loads and unloads LoRA adapters on all workers while they serve, and sees that each worker has what it shall have.

What shall be there is the plan's, which new workers are started by. One that is unloaded is told of no more at once;
its memory is freed when no worker has a request with it, since one that was read elsewhere may still be handed over.
Changes come one after the other.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from baton.errors import BatonError, ConfigError, InvalidRequestError, ModelNotFoundError
from cluster.config.adapter_names import check_name
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import WorkerPhase
from cluster.fleet.worker_call import Call, call_worker
from cluster.models.adapters import base_shapes, find_adapter
from workers.adapters.adapter import AdapterSpec
from workers.spec import SERVING_ROLES

LOAD_TIMEOUT_S = 120.0
CALL_TIMEOUT_S = 30.0
LOOK_S = 0.5  # between looks whether one that is unloaded is still in use
QUIET_LOOKS = 4  # in a row without any use: a request may be between two workers

logger = logging.getLogger(__name__)


class AdapterKeeper:
    """For one event loop.

    Args:
        plan, save: What is wanted now; the same with other adapters, from now on.
        workers: The last worker of each slot.
        spawn: Runs something beside.
        call: Of a worker's method; None: over Ray.
    """

    def __init__(
        self,
        *,
        plan: Callable[[], FleetPlan],
        save: Callable[[FleetPlan], None],
        workers: Callable[[], Iterable[WorkerRecord]],
        spawn: Callable[[Coroutine[Any, Any, None]], Any],
        call: Call | None = None,
    ) -> None:
        self._plan = plan
        self._save = save
        self._workers = workers
        self._spawn = spawn
        self._call = call or call_worker
        self._changing = asyncio.Lock()
        self._unloading: set[str] = set()
        self._mending: set[str] = set()  # workers

    async def load(self, name: str, folder: str) -> AdapterSpec:
        """On every worker that is ready, or on none. Raises: InvalidRequestError: names the field and the fix."""
        async with self._changing:
            wanted = self._plan()
            self._check_new(wanted, name)
            where = allowed_folder(folder, wanted.config.adapters_dynamic.folders)
            try:
                adapter = await asyncio.to_thread(_read, wanted, name, where)
            except ConfigError as error:
                raise InvalidRequestError(f"lora_path: {error.message}", "lora_path") from error
            self._save(replace(wanted, adapters=(*wanted.adapters, adapter)))
            try:
                await self._load_everywhere(adapter)
            except ConfigError as error:
                await self._forget(name)
                raise InvalidRequestError(f"lora_path: {error.message}", "lora_path") from error
            except BatonError:
                await self._forget(name)
                raise
            logger.info("loaded an adapter name=%s folder=%s", name, where)
            return adapter

    async def unload(self, name: str) -> None:
        """Nobody may ask for it any more; answers that are being written are finished.

        Raises: ModelNotFoundError: there is no such adapter.
        """
        async with self._changing:
            if name not in self._names():
                known = ", ".join(self._names()) or "none"
                raise ModelNotFoundError(f"lora_name: {name!r} is not loaded; loaded are {known}", "lora_name")
            await self._forget(name)
            logger.info("unloaded an adapter name=%s", name)

    def mend(self) -> None:
        """Gives workers what they lack, and takes off them what is wanted no more: they were started by an older plan.

        Called now and then.
        """
        if self._changing.locked():
            return
        wanted = self._plan().adapters
        for worker in self._ready():
            if worker.state is None:
                continue
            known = {adapter.name: adapter.hash for adapter in worker.state.adapters}
            if lacking := [adapter for adapter in wanted if known.get(adapter.name) != adapter.content_hash]:
                self._mend(worker, lacking)
            for name in known.keys() - set(self._names()) - self._unloading:
                self._unloading.add(name)
                self._spawn(self._retire_late(name))

    def _mend(self, worker: WorkerRecord, lacking: list[AdapterSpec]) -> None:
        if worker.incarnation not in self._mending:
            self._mending.add(worker.incarnation)
            self._spawn(self._load_missing(worker, lacking))

    async def _load_missing(self, worker: WorkerRecord, lacking: list[AdapterSpec]) -> None:
        try:
            for adapter in lacking:
                async with self._changing:
                    if adapter in self._plan().adapters:
                        await self._call(worker, "load_adapter", adapter, timeout_s=LOAD_TIMEOUT_S)
                        logger.info("loaded an adapter later worker_id=%s name=%s", worker.worker_id, adapter.name)
            await asyncio.sleep(2 * LOOK_S)  # until it has said so
        except BatonError as error:
            logger.error("an adapter is lacking worker_id=%s error=%s", worker.worker_id, error.message)
            await asyncio.sleep(CALL_TIMEOUT_S)
        finally:
            self._mending.discard(worker.incarnation)

    def _names(self) -> list[str]:
        return [adapter.name for adapter in self._plan().adapters]

    def _ready(self) -> list[WorkerRecord]:
        return [
            worker
            for worker in self._workers()
            if worker.role in SERVING_ROLES and worker.phase in (WorkerPhase.READY, WorkerPhase.DRAINING)
        ]

    def _check_new(self, wanted: FleetPlan, name: str) -> None:
        try:
            check_name(name, "lora_name")
        except ConfigError as error:
            raise InvalidRequestError(error.message, "lora_name") from error
        if name == wanted.config.shown_name:
            raise InvalidRequestError(f"lora_name: {name!r} is the model's own name; give another", "lora_name")
        if name in self._names():
            raise InvalidRequestError(f"lora_name: {name!r} is loaded already; unload it first", "lora_name")
        if name in self._unloading:
            raise InvalidRequestError(
                f"lora_name: {name!r} is being unloaded, answers are still written with it; try again later, or give "
                "another name",
                "lora_name",
            )
        most = wanted.config.adapters_dynamic.max_loaded
        if len(wanted.adapters) >= most:
            raise InvalidRequestError(
                f"lora_name: {name!r} would be one more than the {most} that may be loaded "
                "(adapters_dynamic.max_loaded); unload another first",
                "lora_name",
            )

    async def _load_everywhere(self, adapter: AdapterSpec) -> None:
        """Raises: BatonError: what a worker says. One that is gone comes back with the adapter."""
        calls = [self._call(worker, "load_adapter", adapter, timeout_s=LOAD_TIMEOUT_S) for worker in self._ready()]
        for found in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found

    async def _forget(self, name: str) -> None:
        wanted = self._plan()
        self._save(replace(wanted, adapters=tuple(one for one in wanted.adapters if one.name != name)))
        await self._everywhere("retire_adapter", name)
        self._unloading.add(name)
        self._spawn(self._free(name))

    async def _retire_late(self, name: str) -> None:
        """Of workers that brought it along when it had been unloaded already."""
        logger.info("an adapter is left over name=%s", name)
        await self._everywhere("retire_adapter", name)
        await self._free(name)

    async def _free(self, name: str) -> None:
        """Once nobody has used it for a while; bounded by the time that a request may take."""
        try:
            num_quiet = 0
            while num_quiet < QUIET_LOOKS:
                await asyncio.sleep(LOOK_S)
                num_quiet = 0 if any(await self._everywhere("num_adapter_uses", name)) else num_quiet + 1
            await self._everywhere("remove_adapter", name)
        finally:
            self._unloading.discard(name)

    async def _everywhere(self, method: str, name: str) -> list[Any]:
        """What each ready worker answers; those that do not are left out."""
        calls = [self._call(worker, method, name, timeout_s=CALL_TIMEOUT_S) for worker in self._ready()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                logger.warning("a worker did not take a word method=%s name=%s error=%s", method, name, answer)
        return [answer for answer in answers if not isinstance(answer, BaseException)]


def allowed_folder(folder: str, roots: Iterable[str]) -> Path:
    """Where `folder` is, links followed, if that is below one of `roots`; a relative one is looked for below each.

    Raises: InvalidRequestError: it is not, or nothing may be loaded at all.
    """
    if not roots:
        raise InvalidRequestError(
            "lora_path: adapters are not loaded while this server runs; list their folders in "
            "adapters_dynamic.folders of its config",
            "lora_path",
        )
    try:
        for root in (Path(root).resolve() for root in roots):
            found = (root / folder).resolve()
            if root in found.parents and found.is_dir():
                return found
    except (OSError, ValueError) as error:  # a null character, a name too long, a circle of links
        raise InvalidRequestError(
            f"lora_path: cannot be looked for ({error}); give a folder's path", "lora_path"
        ) from None
    raise InvalidRequestError(
        f"lora_path: {folder[:200]!r} is no folder below adapters_dynamic.folders of the server's config; put the "
        "adapter there",
        "lora_path",
    )


def _read(wanted: FleetPlan, name: str, folder: Path) -> AdapterSpec:
    return find_adapter(name, str(folder), base_shapes(wanted.config, Path(wanted.model_path)))
