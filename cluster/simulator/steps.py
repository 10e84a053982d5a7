"""The steps of a simulated worker that are taken one by one: what is in flight, and when the next may begin.

This is a worker of one stage, which computes one step after the other; see `pipeline` for more stages. Decode steps
that are taken many at once are `jumps`' business.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.engine.scheduler import Drafts, ScheduledChunk, Scheduler, StepPlan
from workers.model.contract import ChunkKind


@dataclass(slots=True, kw_only=True, eq=False)
class StepInFlight:
    chunks: Sequence[ScheduledChunk]
    start_s: float
    end_s: float

    @property
    def kind(self) -> str:
        """prefill, decode, or mixed: both."""
        kinds = {chunk.kind for chunk in self.chunks}
        if len(kinds) > 1:
            return "mixed"
        return "decode" if ChunkKind.DECODE in kinds else "prefill"


class Steps:
    """Attributes:
    num_stages: Steps that may be in flight.
    """

    num_stages = 1

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._flying: deque[StepInFlight] = deque()  # oldest first
        self._entry_s = 0.0  # no step begins before

    def __len__(self) -> int:
        """In flight."""
        return len(self._flying)

    @property
    def num_sequences_taken(self) -> int:
        """Those that steps in flight have taken out of the scheduler."""
        return 0

    def next_s(self, now_s: float, *, has_news: bool) -> float | None:
        """When the first step in flight ends, or another may begin if there is news; None: neither."""
        times = [self._flying[0].end_s] if self._flying else []
        if has_news and len(self._flying) < self.num_stages:
            times.append(max(now_s, self._entry_s))
        return min(times, default=None)

    def may_begin(self, now_s: float) -> bool:
        return len(self._flying) < self.num_stages and self._entry_s <= now_s

    def wait_until(self, at_s: float) -> None:
        """No step begins before."""
        self._entry_s = at_s

    def receive(self, cost_s: float, now_s: float) -> None:
        """No step begins while KV that has come is taken in."""
        self._entry_s = now_s + cost_s

    def plan(self, now_s: float, drafts: Callable[[], Drafts | None]) -> StepPlan:
        """The next step."""
        return self._scheduler.plan(now_s, drafts())

    def found_nothing(self) -> None:
        """The plan had nothing to compute."""

    def begin(self, chunks: Sequence[ScheduledChunk], step_s: float, now_s: float) -> None:
        """A step that takes `step_s` alone."""
        self._flying.append(StepInFlight(chunks=chunks, start_s=now_s, end_s=now_s + step_s))

    def take_ended(self, now_s: float) -> StepInFlight | None:
        """The next step that has ended by now."""
        return self._flying.popleft() if self._flying and self._flying[0].end_s <= now_s else None

    def computed(self, step: StepInFlight) -> Sequence[ScheduledChunk]:
        """What of a step that has ended is still asked for."""
        return step.chunks

    def stall(self, duration_s: float, now_s: float) -> None:
        """What is in flight ends so much later; nothing begins meanwhile."""
        self._entry_s = max(self._entry_s, now_s) + duration_s
        for step in self._flying:
            step.end_s += duration_s
