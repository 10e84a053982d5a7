"""Makes, finds and ends worker actors in Ray: per worker one placement group, per rank a detached named actor in it.

The group is asked for first, and may wait for its nodes as long as it takes (Ray's autoscaler sees it); where it is
known to be, the actors start. Actor `baton-worker-<worker id>-<incarnation>`, where a worker id is `<role>-<index>`, of
the leader, and the same with `.<rank>` of the others; group `<namespace>/<leader's actor>`, a bundle for each rank: the
names are all that a controller which came back needs.
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

from cluster.fleet.needs import NUM_CPUS, Need
from cluster.fleet.nodes import Node
from cluster.fleet.shell import WorkerShell
from cluster.fleet.tick import BESIDE
from workers.spec import Role, WorkerSpec

PREFIX = "baton-worker-"
NODE_LABEL = "ray.io/node-id"  # of every node, given by Ray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A worker's processes, or the promise of them."""

    actors: Sequence[Any]  # by rank; none while its group waits
    group: PlacementGroup | None  # None: found without one, so there is none to give back


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a worker's group asks for.

    Attributes:
        targets: Of each rank, the node it had best have; empty: any that has what is needed, now or later.
        spread: Each rank on its own target; else all on one node, which is a wish, not a condition.
        drained: Ids of nodes where no rank is to be, whatever room they have.
    """

    need: Need
    targets: Sequence[Node]
    spread: bool
    drained: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """With what one rank runs."""

    spec: WorkerSpec
    num_gpus: float
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWorker:
    """A worker that was here before this controller."""

    role: Role
    index: int
    beside: bool
    incarnation: str
    launched: Launched


def reserve(wish: Wish, worker_id: str, incarnation: str, *, namespace: str) -> PlacementGroup:
    """Asks for all places of a worker, or none. Returns at once; `where` tells."""
    need, spread = wish.need, wish.spread
    pinned = wish.targets if spread and wish.targets else [None] * need.num_ranks
    labels = dict(need.labels) | ({NODE_LABEL: f"!in({','.join(wish.drained)})"} if wish.drained else {})
    group: PlacementGroup = placement_group(
        [_bundle(need, node) for node in pinned],
        strategy="SPREAD" if spread else "STRICT_PACK",
        name=f"{namespace}/{_actor_name(worker_id, incarnation)}",
        lifetime="detached",
        _soft_target_node_id=None if spread or not wish.targets else wish.targets[0].node_id,
        bundle_label_selector=[labels] * need.num_ranks if labels else None,
    )
    return group


def _bundle(need: Need, node: Node | None) -> dict[str, float]:
    pin = {f"node:{node.address}": 0.001} if node else {}
    return {**need.resources, **pin}


def where(group: PlacementGroup) -> tuple[str, ...]:
    """Node ids of a group's places, by rank; empty: it waits. Blocks for a moment."""
    row = placement_group_table(group)
    if row.get("state") != "CREATED":
        return ()
    nodes: dict[int, str] = row["bundles_to_node_id"]
    return tuple(node_id for _, node_id in sorted(nodes.items()))


def launch(
    group: PlacementGroup, ranks: Sequence[RankPlace], incarnation: str, *, namespace: str, worker_class: str
) -> Launched:
    """Starts the processes in their places.

    Args:
        ranks: The leader first.
    """
    name = _actor_name(ranks[0].spec.worker_id, incarnation)
    actors: list[Any] = []
    for number, rank in enumerate(ranks):
        options = {
            "name": f"{name}.{number}" if number else name,
            "namespace": namespace,
            "lifetime": "detached",
            "num_cpus": NUM_CPUS,
            "num_gpus": rank.num_gpus,
            "max_restarts": 0,
            "enable_task_events": False,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
            "runtime_env": {"env_vars": dict(rank.env)},
        }
        leader = actors[0] if actors else None
        actors.append(ray.remote(WorkerShell).options(**options).remote(worker_class, rank.spec, incarnation, leader))
    return Launched(actors=actors, group=group)


def _actor_name(worker_id: str, incarnation: str) -> str:
    return f"{PREFIX}{worker_id}-{incarnation}"


def find(namespace: str) -> Iterator[FoundWorker]:
    """The workers of this namespace that live. Groups and ranks whose leader is gone are removed."""
    groups = _groups(namespace)
    for name, actors in sorted(_actors(namespace).items()):
        launched = Launched(actors=[actor for _, actor in sorted(actors.items())], group=groups.pop(name, None))
        if 0 not in actors:
            end(launched)
            continue
        role, index, incarnation = name.removeprefix(PREFIX).rsplit("-", 2)
        yield FoundWorker(
            role=Role(role),
            index=int(index.removesuffix(BESIDE)),
            beside=index.endswith(BESIDE),
            incarnation=incarnation,
            launched=launched,
        )
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
