"""The virtual clock: what happens when, in one total order, and a hash of it.

Invariant: at one time, ends of steps come after everything else, in order of their workers; the rest comes in the
order in which it was asked for. So a worker takes in all news of an instant before it plans its next step, and a
simulation does not depend on how many steps were jumped over at once.
"""

import heapq
import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

_NEWS, _STEP = 0, 1
_PACK = struct.Struct("<dBq").pack
_HASH_BYTES = 1 << 16  # packed events that are hashed at once

# Kinds of events, for the trace hash and for those who watch.
ARRIVAL, MESSAGE, STEP_END, RANGE, REPORT, TIMER, FAULT, FLEET = range(8)


class Event(NamedTuple):
    time_s: float
    order: int  # _NEWS or _STEP
    tie: int  # of a step: its worker
    number: int
    kind: int
    subject: int  # index of the worker or request
    handle: Callable[[Any], None]
    argument: Any
    keeps_running: bool


class EventQueue:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_events = 0
        self.num_pending = 0  # events that keep the simulation running
        self.kind = self.subject = 0  # of the last event
        self._heap: list[Event] = []
        self._cancelled: set[int] = set()
        self._number = 0
        self._passed = (-1.0, -1)  # time and worker of the last end of a step
        self._hash = blake2b(digest_size=16)
        self._packed = bytearray()

    def push(
        self,
        time_s: float,
        kind: int,
        subject: int,
        handle: Callable[[Any], None],
        argument: Any = None,
        *,
        keeps_running: bool = True,
    ) -> int:
        """Returns a number for `cancel`. `keeps_running` False: the simulation may end before it happens."""
        return self._push(time_s, _NEWS, 0, kind, subject, handle, argument, keeps_running)

    def push_step(self, time_s: float, worker: int, handle: Callable[[Any], None]) -> int:
        """The end of a step of `worker`, after all news of that instant."""
        return self._push(time_s, _STEP, worker, STEP_END, worker, handle, None, True)

    def cancel(self, number: int) -> None:
        """The event must be pending, and one that keeps the simulation running."""
        self._cancelled.add(number)
        self.num_pending -= 1

    def has_passed(self, time_s: float, worker: int) -> bool:
        """Whether an end of a step of `worker` at `time_s` would have come before what happens now."""
        return time_s < self.now_s or (time_s == self.now_s and (time_s, worker) <= self._passed)

    def run_next(self) -> bool:
        """Handles the next event; False: there is none."""
        while self._heap:
            event = heapq.heappop(self._heap)
            if event.number in self._cancelled:
                self._cancelled.remove(event.number)
                continue
            self.now_s = event.time_s
            self.num_events += 1
            self.kind, self.subject = event.kind, event.subject
            self.num_pending -= event.keeps_running
            if event.order == _STEP:
                self._passed = (event.time_s, event.tie)
            self._packed += _PACK(event.time_s, event.kind, event.subject)
            if len(self._packed) >= _HASH_BYTES:
                self._flush()
            event.handle(event.argument)
            return True
        return False

    def trace_hash(self) -> str:
        self._flush()
        return self._hash.hexdigest()

    def _push(
        self,
        time_s: float,
        order: int,
        tie: int,
        kind: int,
        subject: int,
        handle: Callable[[Any], None],
        argument: Any,
        keeps_running: bool,
    ) -> int:
        assert time_s >= self.now_s, f"an event at {time_s} s, but it is {self.now_s} s"
        number = self._number = self._number + 1
        self.num_pending += keeps_running
        heapq.heappush(self._heap, Event(time_s, order, tie, number, kind, subject, handle, argument, keeps_running))
        return number

    def _flush(self) -> None:
        self._hash.update(self._packed)
        self._packed.clear()
