"""Makes, finds and ends worker actors in Ray: one detached named actor in one placement group per worker.

The group has one bundle. Actor `baton-worker-<worker id>-<incarnation>`, where a worker id is `<role>-<index>`, group
`<namespace>/<actor>`: the names are all that a controller which came back needs.
"""

import logging
from collections.abc import Iterator, Mapping
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
    """A worker's process, or the promise of one."""

    actor: Any
    group: PlacementGroup | None  # None: found without one, so there is none to give back


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWorker:
    """A worker that was here before this controller."""

    role: Role
    index: int
    incarnation: str
    launched: Launched


def launch(
    spec: WorkerSpec,
    incarnation: str,
    *,
    namespace: str,
    node_id: str,
    num_gpus: float,
    env: Mapping[str, str],
    worker_class: str,
) -> Launched:
    """Returns at once; Ray starts the process when the group has its place. `node_id` is a wish, not a condition."""
    name = f"{PREFIX}{spec.worker_id}-{incarnation}"
    bundle = {"CPU": NUM_CPUS} | ({"GPU": num_gpus} if num_gpus else {})
    group = placement_group(
        [bundle],
        strategy="STRICT_PACK",
        name=f"{namespace}/{name}",
        lifetime="detached",
        _soft_target_node_id=node_id,
    )
    actor = (
        ray.remote(WorkerShell)
        .options(
            name=name,
            namespace=namespace,
            lifetime="detached",
            num_cpus=NUM_CPUS,
            num_gpus=num_gpus,
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
            runtime_env={"env_vars": dict(env)},
        )
        .remote(worker_class, spec, incarnation)
    )
    return Launched(actor=actor, group=group)


def find(namespace: str) -> Iterator[FoundWorker]:
    """The workers of this namespace that live. Groups whose worker is gone are removed."""
    groups = _groups(namespace)
    for entry in ray.util.list_named_actors(all_namespaces=True):
        name = entry["name"]
        if entry["namespace"] != namespace or not name.startswith(PREFIX):
            continue
        role, index, incarnation = name.removeprefix(PREFIX).rsplit("-", 2)
        try:
            actor = ray.get_actor(name, namespace=namespace)
        except ValueError:
            logger.info("worker ended while it was looked up name=%s", name)
            continue
        launched = Launched(actor=actor, group=groups.pop(name, None))
        yield FoundWorker(role=Role(role), index=int(index), incarnation=incarnation, launched=launched)
    for group in groups.values():
        remove_placement_group(group)


def end(launched: Launched) -> None:
    """Kills the process and gives its resources back; idempotent."""
    try:
        ray.kill(launched.actor, no_restart=True)
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
