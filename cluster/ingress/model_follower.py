"""Keeps the models of one ingress replica as the first controller's table says, while requests come and go.

A model that is new is named once its workers answer; one that is gone is named no more, and goes when its last answer
has ended. While the table cannot be had, the last one holds.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from baton.errors import BatonError, InternalError
from cluster.contracts.served_model import ModelTable, ServedModel
from cluster.ingress.model_host import Hosted
from cluster.ingress.services import Services, Version

FOLLOW_S = 0.5
QUIET_S = 5.0  # without an open call, until a model that is gone goes: a long prompt may still be on its way to one
RETRY_S = 5.0  # after a model's files could not be read

logger = logging.getLogger(__name__)

# Version of the table that is known here, and calls that each entry has open -> the table; None: it is the same.
FetchTable = Callable[[int, Mapping[str, int]], Awaitable[ModelTable | None]]


class Host(Protocol):
    """See `model_host.ModelHost`."""

    async def open(self, row: ServedModel) -> Hosted: ...


class ModelFollower:
    """For one event loop."""

    def __init__(self, *, services: Services, host: Host, fetch: FetchTable) -> None:
        self._services = services
        self._host = host
        self._fetch = fetch
        self._version = 0
        self._hosted: dict[str, Hosted] = {}  # by entry: served, or about to be
        self._opening: dict[str, ServedModel] = {}
        self._leaving: list[Hosted] = []
        self._rows: dict[str, ServedModel] = {}  # as the table says
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._failed = False

    async def start(self, models: Sequence[ServedModel]) -> None:
        """With what the table says, or these where it cannot be had; they are named at once.

        Raises: ConfigError: files of every one of them are wrong.
        """
        table = await self._ask()
        if table is not None:
            self._version, models = table.version, table.staying()
        self._rows = {row.entry: row for row in models}
        opened = await asyncio.gather(*map(self._host.open, models), return_exceptions=True)
        for row, hosted in zip(models, opened, strict=True):
            if isinstance(hosted, Hosted):
                self._hosted[row.entry] = hosted
                self._show(hosted)
            elif not isinstance(hosted, BatonError) or len(models) == 1:
                raise hosted
            else:
                self._begin(row)
        self._loop = asyncio.create_task(self._keep_following())

    def check(self) -> None:
        """Raises: InternalError: a bug has stopped it, or a model's dispatcher; another replica must take its place."""
        if self._loop is not None and self._loop.done() and not self._loop.cancelled():
            raise InternalError(f"the table of models is not followed any more: {self._loop.exception()!r}")
        for hosted in self._hosted.values():
            hosted.dispatcher.check()

    def leave(self, within_s: float) -> None:
        """This replica is about to end, another takes its place: what runs goes on, for so long."""
        self._services.leaving.set()
        for hosted in (*self._hosted.values(), *self._leaving):
            hosted.dispatcher.leave(within_s)

    async def close(self) -> None:
        tasks = [*self._tasks, *([self._loop] if self._loop is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(hosted.close() for hosted in (*self._hosted.values(), *self._leaving)))

    async def _keep_following(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            table = await self._ask()
            if table is not None:
                self.take(table)
            self._services.look()

    async def _ask(self) -> ModelTable | None:
        """None: it is the same, or cannot be had."""
        try:
            table = await self._fetch(self._version, self._open_calls())
        except BatonError as error:
            if not self._failed:
                logger.warning("table of models not fetched, keeping the last error=%s", error.message)
            self._failed = True
            return None
        self._failed = False
        return table

    def _open_calls(self) -> dict[str, int]:
        """By entry; of those that are to stay, such as are served as the table says."""
        rows = self._rows
        as_told = [one for name, one in self._hosted.items() if name not in rows or one.row.is_as(rows[name])]
        calls = {hosted.row.entry: hosted.service.num_open for hosted in as_told}
        for hosted in self._leaving:
            if hosted.row.entry in rows and hosted.row.entry not in calls:
                continue
            calls[hosted.row.entry] = calls.get(hosted.row.entry, 0) + hosted.service.num_open
        return calls

    def take(self, table: ModelTable) -> None:
        """From now on."""
        self._version = table.version
        self._rows = {row.entry: row for row in table.staying()}
        for entry in [entry for entry in self._opening if entry not in self._rows]:
            del self._opening[entry]
        for entry, row in self._rows.items():
            if entry in self._hosted:
                self._services.weigh(entry, row.weight)
            hosted, opening = self._hosted.get(entry), self._opening.get(entry)
            if hosted is not None and hosted.row.is_as(row):
                self._opening.pop(entry, None)
            elif opening is None or not opening.is_as(row):
                self._begin(row)
        self._drop_gone()

    def _drop_gone(self) -> None:
        """But for those whose workers another entry takes over: not before that one is served."""
        coming = {row.controller for row in self._rows.values() if row.entry not in self._hosted}
        for entry, hosted in list(self._hosted.items()):
            if entry not in self._rows and hosted.row.controller not in coming:
                self._drop(entry)

    def _begin(self, row: ServedModel) -> None:
        self._opening[row.entry] = row
        self._spawn(self._open(row))

    def _wanted(self, row: ServedModel) -> bool:
        return self._opening.get(row.entry) is row

    async def _open(self, row: ServedModel) -> None:
        """Until its workers answer, or the table says something else."""
        hosted = await self._opened(row)
        while self._wanted(row) and hosted is not None and not hosted.dispatcher.health().ok:  # noqa: ASYNC110
            await asyncio.sleep(FOLLOW_S / 10)
        if hosted is None:
            return
        if not self._wanted(row):
            await hosted.close()
            return
        del self._opening[row.entry]
        old = self._hosted.get(row.entry)
        self._hosted[row.entry] = hosted
        self._show(hosted)
        logger.info("model is served entry=%s name=%s", row.entry, row.served_name)
        if old is not None:
            self._retire(old)
        self._drop_gone()

    async def _opened(self, row: ServedModel) -> Hosted | None:
        """None: it is wanted no more."""
        while self._wanted(row):
            try:
                return await self._host.open(row)
            except BatonError as error:
                logger.error("model is not served yet entry=%s error=%s", row.entry, error.message)
                await asyncio.sleep(RETRY_S)
        return None

    def _show(self, hosted: Hosted) -> None:
        row = self._rows[hosted.row.entry]
        self._services.add(
            Version(entry=row.entry, service=hosted.service, weight=row.weight, controller=row.controller)
        )

    def _drop(self, entry: str) -> None:
        hosted = self._hosted.pop(entry)
        self._services.remove(entry)
        logger.info("model is served no more entry=%s name=%s", entry, hosted.row.served_name)
        self._retire(hosted)

    def _retire(self, hosted: Hosted) -> None:
        self._leaving.append(hosted)
        self._spawn(self._finish(hosted))

    async def _finish(self, hosted: Hosted) -> None:
        quiet_s = time.monotonic()
        while hosted.service.num_open or time.monotonic() - quiet_s < QUIET_S:
            if hosted.service.num_open:
                quiet_s = time.monotonic()
            await asyncio.sleep(FOLLOW_S / 2)
        self._leaving.remove(hosted)
        await hosted.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("following models failed", exc_info=task.exception())
