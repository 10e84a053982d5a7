"""What the router knows of a worker: its row in the controller's table, and its last report."""

from dataclasses import dataclass
from typing import NamedTuple

from baton.v1.worker_pb2 import Measures, WorkerState
from workers.spec import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEntry:
    """A row of the controller's table. A new `incarnation` is a new worker: its caches and streams begin anew."""

    worker_id: str
    incarnation: str
    role: Role
    address: str  # host:port of its gRPC server
    draining: bool = False
    model: str = ""  # equal where a text that one has begun may be continued by the other
    family: str = ""  # equal where one may hand requests over to the other, as far as their configs say


class WorkerKey(NamedTuple):
    """One life of one worker."""

    worker_id: str
    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """What `baton status`, `/health` and `/metrics` are told of a worker."""

    entry: WorkerEntry
    state: WorkerState | None  # last report; None before the first
    age_s: float  # since that report; 0 before the first
    up: bool  # this ingress has a stream to it
    model: str = ""  # what its model is called where several are told apart; empty: as it says itself
    measures: Measures | None = None  # the last ones, which not every report has; None before the first
