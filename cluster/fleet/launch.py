"""Makes, finds and ends worker actors in Ray: per worker one placement group, per rank a detached named actor in it.

Actor `baton-worker-<worker id>-<incarnation>`, where a worker id is `<role>-<index>`, of the leader, and the same with
`.<rank>` of the others; group `<namespace>/<leader's actor>`, a bundle for each rank: the names are all that a
controller which came back needs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import PlacementGroupID
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.fleet.shell import WorkerShell
from workers.spec import Role, WorkerSpec

PREFIX = "baton-worker-"
NUM_CPUS = 0.1  # of Ray's accounting: cores are shared out by `cluster.fleet.cores`, not by Ray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A worker's processes, or the promise of them."""

    actors: Sequence[Any]  # by rank
    group: PlacementGroup | None  # None: found without one, so there is none to give back


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """Where one rank is to run, and with what."""

    spec: WorkerSpec
    node_id: str
    address: str  # of the node
    num_gpus: float
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWorker:
    """A worker that was here before this controller."""

    role: Role
    index: int
    incarnation: str
    launched: Launched


def launch(
    ranks: Sequence[RankPlace], incarnation: str, *, namespace: str, spread: bool, worker_class: str
) -> Launched:
    """Returns at once; Ray starts the processes when the group has its places, all of them or none.

    Args:
        ranks: The leader first.
        spread: Each rank on its own `node_id`; else all on one node, for which the leader's is a wish, not a condition.
    """
    leading = ranks[0]
    name = f"{PREFIX}{leading.spec.worker_id}-{incarnation}"
    group = placement_group(
        [_bundle(rank, spread) for rank in ranks],
        strategy="SPREAD" if spread else "STRICT_PACK",
        name=f"{namespace}/{name}",
        lifetime="detached",
        _soft_target_node_id=None if spread else leading.node_id,
    )
    actors: list[Any] = []
    for number, rank in enumerate(ranks):
        options = {
            "name": f"{name}.{number}" if number else name,
            "namespace": namespace,
            "lifetime": "detached",
            "num_cpus": NUM_CPUS,
            "num_gpus": rank.num_gpus,
            "max_restarts": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
            "runtime_env": {"env_vars": dict(rank.env)},
        }
        leader = actors[0] if actors else None
        actors.append(ray.remote(WorkerShell).options(**options).remote(worker_class, rank.spec, incarnation, leader))
    return Launched(actors=actors, group=group)


def _bundle(rank: RankPlace, spread: bool) -> dict[str, float]:
    bundle = {"CPU": NUM_CPUS}
    if rank.num_gpus:
        bundle["GPU"] = rank.num_gpus
    if spread:
        bundle[f"node:{rank.address}"] = 0.001
    return bundle


def find(namespace: str) -> Iterator[FoundWorker]:
    """The workers of this namespace that live. Groups and ranks whose leader is gone are removed."""
    groups = _groups(namespace)
    for name, actors in sorted(_actors(namespace).items()):
        launched = Launched(actors=[actor for _, actor in sorted(actors.items())], group=groups.pop(name, None))
        if 0 not in actors:
            end(launched)
            continue
        role, index, incarnation = name.removeprefix(PREFIX).rsplit("-", 2)
        yield FoundWorker(role=Role(role), index=int(index), incarnation=incarnation, launched=launched)
    for group in groups.values():
        remove_placement_group(group)


def _actors(namespace: str) -> dict[str, dict[int, Any]]:
    """Leader's name -> rank -> actor."""
    found: dict[str, dict[int, Any]] = {}
    for entry in ray.util.list_named_actors(all_namespaces=True):
        name = entry["name"]
        if entry["namespace"] != namespace or not name.startswith(PREFIX):
            continue
        try:
            actor = ray.get_actor(name, namespace=namespace)
        except ValueError:
            logger.info("worker ended while it was looked up name=%s", name)
            continue
        leader, _, rank = name.partition(".")
        found.setdefault(leader, {})[int(rank or 0)] = actor
    return found


def end(launched: Launched) -> None:
    """Kills the processes and gives their resources back; idempotent."""
    try:
        for actor in launched.actors:
            ray.kill(actor, no_restart=True)
        if launched.group is not None:
            remove_placement_group(launched.group)
    except RayError as error:
        logger.warning("worker's resources not released error=%s", error)


def _groups(namespace: str) -> dict[str, PlacementGroup]:
    """Actor name -> its group."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    prefix = f"{namespace}/"
    return {
        row["name"].removeprefix(prefix): PlacementGroup(PlacementGroupID(bytes.fromhex(group_id)))
        for group_id, row in table.items()
        if row["name"].startswith(prefix + PREFIX) and row["state"] != "REMOVED"
    }
