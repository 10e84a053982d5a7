"""When a simulated worker looks at its steps again: one event, that moves as they change."""

from collections.abc import Callable

from cluster.simulator.events import EventQueue


class StepAlarm:
    """Args:
    worker: Index among all.
    ring: Called after all news of the instant.
    """

    def __init__(self, queue: EventQueue, worker: int, ring: Callable[[], None]) -> None:
        self._queue = queue
        self._worker = worker
        self._ring = ring
        self._number: int | None = None  # of the pending event, at `_at_s`
        self._at_s = 0.0

    def set(self, at_s: float) -> None:
        if self._number is not None:
            if at_s == self._at_s:
                return
            self._queue.cancel(self._number)
        self._at_s = at_s
        self._number = self._queue.push_step(at_s, self._worker, self._on_time)

    def delay(self, duration_s: float) -> None:
        if self._number is not None:
            self.set(self._at_s + duration_s)

    def cancel(self) -> None:
        if self._number is not None:
            self._queue.cancel(self._number)
            self._number = None

    @property
    def has_passed_now(self) -> bool:
        """Whether a step that ends at this instant has ended."""
        return self._queue.has_passed(self._queue.now_s, self._worker)

    def _on_time(self, _: None) -> None:
        self._number = None
        self._ring()
