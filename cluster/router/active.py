"""One request while an ingress has it: where it runs, and what it waits for. Each ingress adds what is its own."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.router.lifecycle import Lifecycle
from cluster.router.workers import WorkerKey


class Timer(enum.Enum):
    DEADLINE = "deadline"
    RETRY = "retry"  # the pause before a new attempt
    WORKER = "worker"  # until one comes that can serve the request


class Alarm(NamedTuple):
    """A timer that is set."""

    at_s: float
    cancel: Callable[[], object]


@dataclass(slots=True, kw_only=True, eq=False)
class Active:
    """Mutable; owned by `cluster.router.requests.Requests`."""

    lifecycle: Lifecycle
    num_prompt_tokens: int
    max_tokens: int  # of output, per choice
    workers: set[WorkerKey] = field(default_factory=set)  # whose load it is part of
    alarms: dict[Timer, Alarm] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        return self.lifecycle.request_id
