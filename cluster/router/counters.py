"""What one ingress's router counts of all its requests."""

from collections import Counter
from dataclasses import dataclass, field

from workers.telemetry.bounds import QUEUE_S, STEP_S
from workers.telemetry.histogram import Histogram


@dataclass(slots=True, kw_only=True)
class Counters:
    """`finished` counts choices by reason: stop, length, abort (by the caller), error.

    Attributes:
        queue_s: From a request's arrival until it was sent to its first worker.
        step_s: That it took to hand on what one step of one worker gave.
    """

    num_queued: int = 0
    num_running: int = 0
    num_shed: int = 0
    num_retries: int = 0
    num_lost_workers: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    queue_s: Histogram = field(default_factory=lambda: Histogram(QUEUE_S))
    step_s: Histogram = field(default_factory=lambda: Histogram(STEP_S))
