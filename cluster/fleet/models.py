"""The first controller's part in serving several models: the table of what is served, and one status of them all. Each
model's workers are its own controller's.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.contracts.events import EventKind, TellEvent
from cluster.contracts.served_model import ServedModel
from cluster.fleet.merged_status import merged
from cluster.fleet.model_book import ModelBook
from cluster.fleet.status import FleetStatus

STATUS_TIMEOUT_S = 3.0

logger = logging.getLogger(__name__)


class Models:
    """For one event loop. Of a controller that is not the first the table is empty."""

    def __init__(self, namespace: str, *, tell: TellEvent) -> None:
        self.book = ModelBook(namespace)
        self._namespace = namespace
        self._tell = tell
        self._controllers: dict[str, Any] = {}  # by actor's name

    def serve(self, models: Sequence[ServedModel]) -> None:
        before = {row.entry for row in self.book.table.staying()}
        self.book.put(models)
        after = {row.entry: row for row in self.book.table.staying()}
        for entry in sorted(after.keys() - before - {""}):
            self._say(entry, f"is served as {after[entry].served_name}, weight {after[entry].weight:g}")
        for entry in sorted(before - after.keys() - {""}):
            self._say(entry, "is served no more; what runs is finished")

    def weigh(self, served_name: str, weights: Mapping[str, float] | None) -> None:
        """Raises: ConfigError: see `ModelBook.weigh`."""
        self.book.weigh(served_name, weights)
        rows = [row for row in self.book.table.staying() if row.served_name == served_name]
        self._say(served_name, "weights are " + ", ".join(f"{row.entry}={row.weight:g}" for row in rows))

    def is_quiet(self, entry: str) -> bool:
        now_s = time.monotonic()
        return self.book.is_followed(now_s) and not self.book.num_open(entry, now_s)

    async def status(self, own: FleetStatus) -> FleetStatus:
        """Of all models; `own`: of the first controller's workers."""
        rows = {row.entry: row for row in self.book.table.models if row.entry}
        if not rows:
            return own
        names = {row.controller for row in rows.values()}
        answers = dict(zip(names, await asyncio.gather(*(self._ask(name, own) for name in names)), strict=True))
        now_s = time.monotonic()
        return merged(
            rows,
            {entry: answers[row.controller] for entry, row in rows.items()},
            {entry: self.book.num_open(entry, now_s) for entry in rows},
        )

    async def _ask(self, name: str, own: FleetStatus) -> FleetStatus | None:
        """None: it does not answer."""
        if name == ray.get_runtime_context().get_actor_name():
            return own
        try:
            if name not in self._controllers:
                self._controllers[name] = await asyncio.to_thread(ray.get_actor, name, namespace=self._namespace)
            reference = self._controllers[name].own_status.remote()
            status: FleetStatus = await asyncio.wait_for(asyncio.wrap_future(reference.future()), STATUS_TIMEOUT_S)
        except (RayError, ValueError, TimeoutError) as error:
            self._controllers.pop(name, None)
            logger.warning("controller does not answer name=%s error=%r", name, error)
            return None
        return status

    def _say(self, subject: str, text: str) -> None:
        logger.info("models subject=%s what=%s", subject, text)
        self._tell(EventKind.CONFIG, subject, text)


async def tell_first(entry: str, kind: EventKind, subject: str, text: str, *, is_trouble: bool) -> None:
    """The controller of an entry tells the first, of which people ask what happened. Lost where that one is away."""
    here = ray.get_runtime_context()
    first = str(here.get_actor_name()).removesuffix(f".{entry}")
    with contextlib.suppress(RayError, ValueError, TimeoutError):
        actor = await asyncio.to_thread(ray.get_actor, first, namespace=here.namespace)
        reference: Any = actor.tell.remote(kind, subject, text, is_trouble=is_trouble)
        await asyncio.wait_for(asyncio.wrap_future(reference.future()), STATUS_TIMEOUT_S)
