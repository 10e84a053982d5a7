"""Sends the spans of sampled visits to a collector, over OTLP/HTTP, from a thread of its own.

Invariant: the event loop never waits. Visits wait in a bounded queue; what does not fit, and what a collector does not
take in time, is counted and forgotten: nothing is tried again, and the log says so once a minute at most. OpenTelemetry
is imported when the first is made: where nothing is sent, nothing of it is loaded.

Spans are made from what the ingress noted, so workers send none themselves, and what a request did is lost with its
ingress alone. They are built as the exporter takes them, without a tracer: those that are noted afterwards have no
use for its clocks, contexts and locks, which would cost three times as much.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cluster.ingress.tracing.visit import Visit

MAX_WAITING = 512  # visits
MAX_BATCH = 32  # visits: their spans are encoded in some 10 ms, a call to the collector costs as much as a few of them
FLUSH_S = 1.0
CLOSE_S = 2.0
REMIND_S = 60.0

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """See `cluster.ingress.tracing.otlp`."""

    def send(self, visits: Sequence[Visit]) -> bool:
        """Whether the collector has taken them."""
        ...

    def close(self) -> None: ...


class Export:
    """
    Args:
        make_sender: Called in the thread.
        dropped: Told how many visits' spans went nowhere.
    """

    def __init__(self, make_sender: Callable[[], Sender], dropped: Callable[[int], Any]) -> None:
        self._make_sender = make_sender
        self._dropped = dropped
        self._waiting: queue.Queue[Visit] = queue.Queue(MAX_WAITING)
        self._is_closed = threading.Event()
        self._full = threading.Event()  # a batch is there
        self._told_s = -REMIND_S
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def take(self, visit: Visit) -> None:
        """One that has ended; microseconds. Looks and probes are traced only where whoever looks is part of a trace."""
        trace = visit.trace
        if trace is None or not trace.is_sampled or (visit.method in ("GET", "HEAD") and not trace.parent_id):
            return
        try:
            self._waiting.put_nowait(visit)
        except queue.Full:
            self._dropped(1)
            return
        if self._waiting.qsize() >= MAX_BATCH:
            self._full.set()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Sends what waits, for so long."""
        self._is_closed.set()
        self._full.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        sender = self._make_sender()
        while True:
            self._full.wait(FLUSH_S)
            self._full.clear()
            while batch := self._take_batch():
                self._send(sender, batch)
            if self._is_closed.is_set() and self._waiting.empty():
                sender.close()
                return

    def _take_batch(self) -> list[Visit]:
        batch: list[Visit] = []
        while len(batch) < MAX_BATCH:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _send(self, sender: Sender, batch: list[Visit]) -> None:
        try:
            is_taken = sender.send(batch)
        except Exception:  # of the exporter: whatever it is, it costs these spans
            logger.exception("spans could not be made num_requests=%d", len(batch))
            is_taken = False
        if not is_taken:
            self._dropped(len(batch))
            self._remind(len(batch))

    def _remind(self, num_requests: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= REMIND_S:
            self._told_s = now_s
            logger.warning("the collector does not take spans num_requests=%d", num_requests)
