"""Empties nodes before maintenance: which of them may be, by what name, and what is on each. The plan keeps which are;
their workers are then outdated like those of an older config.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from baton.errors import InvalidRequestError
from cluster.fleet.nodes import ON_HEAD, Node
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import LIVE

SHORT_ID = 8  # first characters of a node's id, enough to name it


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    node_id: str
    address: str
    is_head: bool
    is_drained: bool
    workers: tuple[str, ...]  # ids of those with a rank there
    num_ingress_replicas: int

    @property
    def is_empty(self) -> bool:
        return not self.workers and not self.num_ingress_replicas

    @property
    def shown(self) -> str:
        return f"{self.address} ({self.node_id[:SHORT_ID]})"


def find_node(name: str, nodes: Sequence[Node]) -> Node:
    """By its address, or by its id or the beginning of that. Raises: InvalidRequestError: none, or several."""
    found = [node for node in nodes if node.address == name or (len(name) >= 4 and node.node_id.startswith(name))]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{node.address} ({node.node_id[:SHORT_ID]})" for node in found or nodes)
    why = "several nodes have it; give an id" if found else "no node of the cluster has this address or id"
    raise InvalidRequestError(f"NODE: {name!r}: {why}; there are {known}", "node")


def with_drained(plan: FleetPlan, node: Node, nodes: Iterable[Node], *, undo: bool) -> FleetPlan:
    """Raises: InvalidRequestError: this one cannot be empty while the cluster runs."""
    others = tuple(node_id for node_id in plan.drained if node_id != node.node_id)
    if undo:
        return replace(plan, drained=others)
    if is_head(node):
        raise InvalidRequestError(
            f"NODE: {node.address} is the head: Ray's own processes, the controller and the public ports are there; "
            "`baton down` ends the cluster, then take it down",
            "node",
        )
    drained = (*others, node.node_id)
    alive = [one.node_id for one in nodes]
    return replace(plan, drained=tuple(node_id for node_id in drained if node_id in alive))


def is_head(node: Node) -> bool:
    return not ON_HEAD.keys().isdisjoint(node.resources)


def statuses(
    nodes: Iterable[Node], plan: FleetPlan, workers: Iterable[WorkerRecord], ingresses: Sequence[str], prefix: str = ""
) -> tuple[NodeStatus, ...]:
    """
    Args:
        ingresses: Of each ingress replica the id of its node.
        prefix: Before the workers' ids.
    """
    live = [worker for worker in workers if worker.phase in LIVE and worker.launched is not None]
    return tuple(
        NodeStatus(
            node_id=node.node_id,
            address=node.address,
            is_head=is_head(node),
            is_drained=node.node_id in plan.drained,
            workers=tuple(
                f"{prefix}{one.worker_id}" for one in live if any(rank.node_id == node.node_id for rank in one.ranks)
            ),
            num_ingress_replicas=ingresses.count(node.node_id),
        )
        for node in nodes
    )
