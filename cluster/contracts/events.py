"""What happened to a fleet, for people: `baton status`, the page and the log. Bounded; the newest are kept."""

import enum
from collections import deque
from dataclasses import dataclass
from typing import Protocol

MAX_EVENTS = 512


class EventKind(enum.StrEnum):
    WORKER = "worker"  # its phase changed: started, ready, drained, failed
    ROLE = "role"  # of a worker
    CONFIG = "config"  # another one was applied
    ROLLOUT = "rollout"  # of a change, step by step
    PLAN = "plan"  # the autopilot's decisions
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    Attributes:
        number: From 1, without gaps.
        at_s: Since the epoch.
        subject: A worker, a node, a key of the config.
        text: One sentence, the reason with it.
        is_trouble: Something went against our will.
    """

    number: int
    at_s: float
    kind: EventKind
    subject: str
    text: str
    is_trouble: bool = False


class TellEvent(Protocol):
    """Who has an event told: see `Controller.tell`."""

    def __call__(self, kind: EventKind, subject: str, text: str, *, is_trouble: bool = False) -> None: ...


class EventLog:
    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: deque[Event] = deque(maxlen=max_events)
        self._num_told = 0

    def tell(self, kind: EventKind, subject: str, text: str, at_s: float, *, is_trouble: bool = False) -> Event:
        self._num_told += 1
        event = Event(number=self._num_told, at_s=at_s, kind=kind, subject=subject, text=text, is_trouble=is_trouble)
        self._events.append(event)
        return event

    def after(self, number: int) -> tuple[Event, ...]:
        """Those that are kept and later than event `number`, the oldest first; 0: all."""
        return tuple(event for event in self._events if event.number > number)
