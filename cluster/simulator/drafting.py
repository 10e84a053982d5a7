"""Who says how sequences of a simulated worker go on, and how much of it is right: tokens here are all alike."""

from typing import Protocol

from workers.engine.drafting import Drafter
from workers.engine.scheduler import ScheduledChunk


class SimDrafter(Drafter, Protocol):
    """Proposes tokens of id 0, as many as it guesses."""

    def num_accepted(self, chunk: ScheduledChunk) -> int:
        """Of the chunk's draft tokens; called once, when its step is done."""
        ...
