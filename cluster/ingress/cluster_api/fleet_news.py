"""What the controller tells of a fleet, as plain values that JSON can have.

Its own classes stay with it: an ingress neither imports the fleet nor minds a field that is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from cluster.contracts.events import Event

_OF_WORKER = ("phase", "node_id", "pid", "cores", "address", "error", "error_is_final", "num_failures")
_OF_POOL = ("role", "num_desired", "num_ready", "waits")
_OF_AUTOPILOT = ("mode", "doing", "is_trusted")  # what it decides is among the events


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNews:
    """`workers`: by id."""

    ready: bool
    num_ingress_replicas: int = 0
    pools: Sequence[Mapping[str, Any]] = ()
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Sequence[str] = ()
    autopilot: Mapping[str, Any] | None = None
    events: Sequence[Event] = ()  # new ones, the oldest first


class AskFleet(Protocol):
    async def __call__(self, after: int) -> FleetNews:
        """With events later than `after`. Raises: UnavailableError: the controller does not answer."""
        ...


def fleet_news(status: Any, events: Sequence[Event]) -> FleetNews:
    """`status`: a `cluster.fleet.status.FleetStatus`."""
    return FleetNews(
        ready=status.ready,
        num_ingress_replicas=status.num_ingress_replicas,
        pools=[_plain(pool, _OF_POOL) for pool in status.pools],
        workers={one.worker_id: _worker(one) for one in status.workers},
        refused=list(status.refused),
        autopilot=_plain(status.autopilot, _OF_AUTOPILOT),
        events=events,
    )


def _worker(one: Any) -> dict[str, Any]:
    ranks = [{"node": rank.node, "pid": rank.pid, "cores": list(rank.cores)} for rank in one.ranks]
    return {"role": str(one.role), "incarnation": one.incarnation, **_plain(one, _OF_WORKER), "ranks": ranks}


def _plain(one: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: _value(getattr(one, name)) for name in names}


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)  # an enum's too
    return list(value) if isinstance(value, tuple) else value


def event_row(event: Event) -> dict[str, Any]:
    return asdict(event) | {"kind": str(event.kind)}
