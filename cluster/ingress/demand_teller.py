"""Tells the controller what its replica is asked for, and takes the limits that come back.

Nothing waits for it: a controller that is away costs a report, and limits stay as they were.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from baton.errors import BatonError
from cluster.contracts.demand import MAX_FINISHED, MAX_OPEN, DemandAnswer, DemandReport
from cluster.contracts.finished import FinishedRequest
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.ingress.service import Service

INTERVAL_S = 1.0
IDLE_INTERVAL_S = 2.0  # while nobody wants to know

logger = logging.getLogger(__name__)
Send = Callable[[DemandReport], Awaitable[DemandAnswer]]


class DemandTeller:
    """Of one model's requests.

    Args:
        send: To the controller. Raises: BatonError.
    """

    def __init__(self, service: Service, ingress_id: str, send: Send) -> None:
        self._service = service
        self._ingress_id = ingress_id
        self._send = send
        self._wants = False
        self._tuning: Tuning = UNTUNED
        self._finished: deque[FinishedRequest] = deque(maxlen=MAX_FINISHED)
        self._num_finished = 0
        self._task: asyncio.Task[None] | None = None
        service.on_finished.append(self._on_finished)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _on_finished(self, request: FinishedRequest) -> None:
        if self._wants:
            self._finished.append(request)
            self._num_finished += 1

    async def _run(self) -> None:
        while True:
            try:
                await self.tell()
            except Exception:
                logger.exception("the controller was not told of requests")
            await asyncio.sleep(INTERVAL_S if self._wants else IDLE_INTERVAL_S)

    async def tell(self) -> None:
        """One report."""
        told = tuple(self._finished)
        report = DemandReport(
            ingress_id=self._ingress_id,
            now_s=time.monotonic(),
            finished=told,
            open=tuple(call.seen for call in list(self._service.open_calls)[:MAX_OPEN]) if self._wants else (),
            is_whole=self._num_finished <= len(told),
        )
        try:
            answer = await self._send(report)
        except BatonError as error:
            logger.debug("the controller was not told of requests error=%s", error.message)
            return
        for _ in range(min(len(told), len(self._finished))):
            self._finished.popleft()
        self._num_finished = len(self._finished)
        self._take(answer)

    def _take(self, answer: DemandAnswer) -> None:
        self._wants = answer.wants
        if answer.tuning != self._tuning:
            self._tuning = answer.tuning
            self._service.dispatcher.tune(answer.tuning)
            logger.info("limits changed tuning=%s", answer.tuning)
