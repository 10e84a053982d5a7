"""How a client behaves while it is answered."""

from dataclasses import dataclass
from random import Random

from tools.soak.ask import GRPC, Ask

SLOW_PAUSE_S = 0.25  # of a reader that is slow, after each event, up to MAX_PAUSES times
MAX_PAUSES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """
    Attributes:
        leaves_after_s: Drops the connection then; None: stays.
        deadline_s: Of the call, short enough to end some; over gRPC alone.
    """

    name: str
    stream: bool
    leaves_after_s: float | None = None
    deadline_s: float | None = None
    pause_s: float = 0.0


WHOLE = Manner(name="whole", stream=False)
STREAM = Manner(name="stream", stream=True)


def draw_manner(rng: Random, ask: Ask) -> Manner:
    """Most clients wait for the end; some leave, some read slowly, some have little time."""
    lot = rng.random()
    if lot < 0.10:
        return Manner(name="leaves", stream=rng.random() < 0.7, leaves_after_s=rng.expovariate(1 / 0.3))
    if lot < 0.15 and ask.api == GRPC:
        return Manner(name="deadline", stream=True, deadline_s=0.05 + rng.expovariate(1 / 0.4))
    if lot < 0.22:
        return Manner(name="slow", stream=True, pause_s=SLOW_PAUSE_S)
    return STREAM if lot < 0.65 else WHOLE
