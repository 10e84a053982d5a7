"""All streams of this ingress: one per worker of the controller's table, which is fetched again and again.

Invariant: every worker of the table has a link; a worker that left the table keeps its link until the requests that
depend on it are through. A failing fetch changes nothing: the cluster serves on while its controller is away.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from baton.errors import BatonError, InternalError, UnavailableError
from baton.v1.worker_pb2 import FromWorker, ReportWish, TokenOutput, ToWorker, WorkerState
from cluster.config.schema import HealthConfig
from cluster.router.report_rate import report_interval_s
from cluster.router.session import LinkState, WorkerLink
from cluster.router.table import WorkerTable
from cluster.router.workers import WorkerEntry, WorkerKey

logger = logging.getLogger(__name__)

FETCH_INTERVAL_S = 0.5
FETCH_TIMEOUT_S = 5.0
WATCH_INTERVAL_S = 0.25
SILENCE_S = 1.75  # workers say something once a second at least; with a turn of the watch, one is lost within 2 s


class Links:
    """Callbacks run on the event loop and must not block.

    Args:
        model: Whose workers it asks; empty: all there are.
        on_outputs: A worker's token outputs, in the order it sent them.
        on_lost: A worker that was up is gone, and why.
        on_change: Which workers may be chosen has changed.
    """

    def __init__(
        self,
        *,
        ingress_id: str,
        secret: str,
        health: HealthConfig,
        fetch_workers: Callable[[], Awaitable[Sequence[WorkerEntry]]],
        model: str = "",
        on_outputs: Callable[[WorkerLink, Iterable[TokenOutput]], None],
        on_lost: Callable[[WorkerLink, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.table = WorkerTable(step_timeout_s=health.step_timeout_s)
        self._ingress_id = ingress_id
        self._secret = secret
        self._fetch_workers = fetch_workers
        self._model = model
        self._has_gone = False  # all workers are another model's
        self._on_outputs = on_outputs
        self._on_lost = on_lost
        self._on_change = on_change
        self._links: dict[WorkerKey, WorkerLink] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._fetch_failed = False
        self._bug: BaseException | None = None  # that ended one of the loops

    async def start(self) -> None:
        """Fetches the table once; streams open in the background."""
        await self._refresh()
        self._tasks = [asyncio.create_task(self._keep_fetching()), asyncio.create_task(self._keep_watching())]
        for task in self._tasks:
            task.add_done_callback(self._loop_ended)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        closing = [asyncio.create_task(link.close()) for link in self._links.values()]
        self._links.clear()
        if waiting := [*self._tasks, *closing, *self._closing]:
            await asyncio.wait(waiting)

    def check(self) -> None:
        """Raises: InternalError: the table is not fetched, or silence not seen, any more: this ingress is of no use."""
        if self._bug is not None:
            raise InternalError(f"a loop of the router has ended: {self._bug!r}")

    def up(self, key: WorkerKey) -> WorkerLink | None:
        """The worker's link if messages can be sent on it."""
        link = self._links.get(key)
        return link if link is not None and link.state is LinkState.UP else None

    def refusal(self) -> BatonError | None:
        """Why every worker turns this ingress down, if every one does."""
        if self._has_gone:
            return UnavailableError("the model was replaced by another one; send the request again")
        refusals = [link.refusal for link in self._links.values()]
        return refusals[0] if refusals and all(refusals) else None

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._bug = task.exception()
            logger.critical("router loop ended name=%s", task.get_name(), exc_info=self._bug)

    async def _keep_fetching(self) -> None:
        while True:
            await asyncio.sleep(FETCH_INTERVAL_S)
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                entries = await self._fetch_workers()
        except Exception as error:  # whatever the controller's transport raises: the last table stays
            if not self._fetch_failed:
                logger.warning("worker table not fetched, keeping the last error=%r", error)
            self._fetch_failed = True
            return
        if self._fetch_failed:
            logger.info("worker table fetched again num_workers=%d", len(entries))
        self._fetch_failed = False
        self._apply(entries)

    def _apply(self, entries: Sequence[WorkerEntry]) -> None:
        known, there = self.table.entries(), len(entries)
        entries = [entry for entry in entries if not self._model or entry.model in ("", self._model)]
        self._has_gone = bool(there) and not entries
        if list(known.values()) == list(entries):
            return
        self.table.replace(entries)
        for key, entry in self.table.entries().items():
            link = self._links.get(key)
            if link is not None and link.address != entry.address:
                self._retire(link)
                link = None
            if link is None:
                self._open(entry)
        self._close_idle()
        self._on_change()

    def _open(self, entry: WorkerEntry) -> None:
        link = WorkerLink(
            entry=entry,
            ingress_id=self._ingress_id,
            secret=self._secret,
            on_message=self._receive,
            on_down=self._lose,
            on_refused=self._on_change,
        )
        self._links[link.key] = link
        link.start()

    def _retire(self, link: WorkerLink) -> None:
        """Drops the link; `on_lost` is told if it was up."""
        link.drop("left the table")
        del self._links[link.key]
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _close_idle(self) -> None:
        current = self.table.entries()
        for link in list(self._links.values()):
            if link.key not in current and (link.state is not LinkState.UP or not self.table.dependents(link.key)):
                self._retire(link)

    async def _keep_watching(self) -> None:
        """Finds silent workers. Skips a turn after this loop itself was held up: messages may lie unread."""
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now_s = time.monotonic()
            if now_s - last_s < 2.0 * WATCH_INTERVAL_S:
                for link in list(self._links.values()):
                    silent_s = now_s - link.last_message_s
                    if link.state is LinkState.UP and silent_s > SILENCE_S:
                        link.drop(f"silent for {silent_s:.1f} s")
                self._close_idle()
            self._wish()
            last_s = now_s

    def _receive(self, link: WorkerLink, message: FromWorker) -> None:
        has_outputs = message.HasField("outputs")
        if has_outputs:
            self._on_outputs(link, message.outputs.outputs)
        if message.HasField("state"):
            self._book(link, message.state)
        elif not has_outputs and not self.table.unchanged(link.key, now_s=time.monotonic()):
            self._ask_again(link)

    def _book(self, link: WorkerLink, state: WorkerState) -> None:
        lacked_cache = self.table.lacks_cache(link.key)
        changed = self.table.report(link.key, state, now_s=time.monotonic())
        if self.table.lacks_cache(link.key) and not lacked_cache:
            self._ask_again(link)
        if changed:
            self._on_change()

    def _ask_again(self, link: WorkerLink) -> None:
        """The last report is not known here, or not all before it: has the worker tell everything."""
        logger.warning("load report missed worker_id=%s", link.key.worker_id)
        if link.state is LinkState.UP:
            link.send(ToWorker(reports=ReportWish(snapshot=True)))

    def _wish(self) -> None:
        """Tells every worker how often to report, where that is news."""
        interval_s = report_interval_s(len(self._links))
        for link in self._links.values():
            if link.state is LinkState.UP and link.report_interval_s != interval_s:
                link.report_interval_s = interval_s
                link.send(ToWorker(reports=ReportWish(interval_s=interval_s)))

    def _lose(self, link: WorkerLink, reason: str) -> None:
        self.table.disconnect(link.key)
        self._on_lost(link, reason)
