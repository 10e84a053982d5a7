"""Which workers a change means: pools' slots keep their names, whatever their workers do.

A worker's home is the pool that its id names; a pool shrinks from its end.
"""

from collections import Counter
from collections.abc import Mapping

from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.planner.online.setup import Change, Setup
from workers.spec import SERVING_ROLES, Role


def setup_of(roles: Mapping[str, Role], tuning: Tuning = UNTUNED) -> Setup:
    """Of workers by id; those that take no requests are left out."""
    counts = Counter(roles.values())
    return Setup(**{role.value: counts[role] for role in SERVING_ROLES}, tuning=tuning)


def home(worker_id: str) -> Role:
    return Role(worker_id.rpartition("-")[0])


def index(worker_id: str) -> int:
    return int(worker_id.rpartition("-")[2])


def to_change(change: Change, roles: Mapping[str, Role]) -> list[str]:
    """The workers whose role a change of roles means: those that come home first, then the last of their pool."""
    fitting = [name for name, role in roles.items() if role is change.source]
    fitting.sort(key=lambda name: (home(name) is not change.target, -index(name)))
    return fitting[: change.count]


def counts_after(change: Change, roles: Mapping[str, Role]) -> dict[Role, int] | None:
    """Slots of each pool after a change of their number; None: there is no pool to grow, or the last worker of no pool
    does what one must leave.
    """
    counts = Counter(home(name) for name in roles)
    if change.target is not None:
        if not counts[change.target]:
            return None
        counts[change.target] += change.count
        return dict(counts)
    for role in (change.source, *SERVING_ROLES):
        if role is not None and counts[role] > 1 and roles[f"{role}-{counts[role] - 1}"] is change.source:
            counts[role] -= 1
            return dict(counts)
    return None
