"""What the router knows of a worker before it has a stream to it."""

from dataclasses import dataclass

from workers.spec import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEntry:
    """A row of the controller's table. A new `incarnation` is a new worker: its caches and streams begin anew."""

    worker_id: str
    incarnation: str
    role: Role
    address: str  # host:port of its gRPC server
    draining: bool = False
