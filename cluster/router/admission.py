"""Who runs, who waits and who is turned away, for one ingress replica.

Invariant: running <= max_running, queued <= max_queue, and nobody waits while a running slot is free; limits that fall
hold for those that come later.
Holds ids and times alone; what a request is belongs to `cluster.router.lifecycle`.
"""

import math
from collections import deque

from baton.errors import OverloadedError

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
_NUM_DEPARTURES = 64  # whose times give the drain rate


class Admission:
    """First come, first served. Times are seconds on any one clock that does not go back."""

    def __init__(self, *, max_running: int, max_queue: int) -> None:
        self._max_running = max_running
        self._max_queue = max_queue
        self._running: set[str] = set()
        self._queued: dict[str, float] = {}  # id -> deadline, in order of arrival
        self._departures: deque[float] = deque(maxlen=_NUM_DEPARTURES)  # since somebody waits
        self.num_shed = 0

    def tune(self, *, max_running: int, max_queue: int) -> list[str]:
        """Other limits from now on; returns the ids that run because of it. Who runs or waits already stays."""
        self._max_running, self._max_queue = max_running, max_queue
        return self._admit()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_queued(self) -> int:
        return len(self._queued)

    def is_queued(self, request_id: str) -> bool:
        return request_id in self._queued

    def arrive(self, request_id: str, *, deadline_s: float, now_s: float) -> bool:
        """True: it runs now. False: it waits for a `leave` that returns its id, or for `expire`.

        Raises:
            OverloadedError: The queue is full; `retry_after_s` is how long it takes to drain at the measured rate.
        """
        assert not self._holds(request_id), f"{request_id} is here already"
        if len(self._running) < self._max_running:
            self._running.add(request_id)
            return True
        if len(self._queued) >= self._max_queue:
            self.num_shed += 1
            retry_after_s = self._retry_after_s(now_s)
            raise OverloadedError(
                f"router.max_queue: {self._max_queue} requests wait already; try again in {math.ceil(retry_after_s)} s",
                retry_after_s,
            )
        if not self._queued:
            self._departures.clear()  # the pause before says nothing of how fast a queue drains
        self._queued[request_id] = deadline_s
        return False

    def leave(self, request_id: str, *, now_s: float) -> list[str]:
        """Frees what the request held, if anything, and returns the ids that run from now on. Idempotent."""
        if self._queued.pop(request_id, None) is not None or request_id not in self._running:
            return []
        self._running.remove(request_id)
        self._departures.append(now_s)
        return self._admit()

    def _admit(self) -> list[str]:
        admitted = []
        while self._queued and len(self._running) < self._max_running:
            first = next(iter(self._queued))
            del self._queued[first]
            self._running.add(first)
            admitted.append(first)
        return admitted

    def expire(self, now_s: float) -> list[str]:
        """Takes the requests whose deadline has come out of the queue and returns their ids, oldest first."""
        expired = [request_id for request_id, deadline_s in self._queued.items() if deadline_s <= now_s]
        for request_id in expired:
            del self._queued[request_id]
        return expired

    def _holds(self, request_id: str) -> bool:
        return request_id in self._running or request_id in self._queued

    def _retry_after_s(self, now_s: float) -> float:
        elapsed_s = now_s - self._departures[0] if self._departures else 0.0
        if elapsed_s <= 0.0:
            return MIN_RETRY_AFTER_S
        drain_s = len(self._queued) * elapsed_s / len(self._departures)
        return min(max(drain_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
