"""The fleets of all models as one, for commands that are about nodes and workers, whosever they are."""

from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.local.deploying import deploy_ingress
from workers.spec import Role

if TYPE_CHECKING:
    from cluster.fleet.client import ControllerClient
    from cluster.fleet.node_drain import NodeStatus
    from cluster.fleet.role_keeper import WorkerRole
    from cluster.fleet.status import FleetStatus
    from workers.role_rules import RoleChanged


class EveryFleet:
    """Of a cluster whose Ray is connected. `first`: the controller that keeps the table of models."""

    def __init__(self, first: "ControllerClient") -> None:
        from cluster.fleet.client import ControllerClient  # Ray reads at its import where the cluster's token is

        self._first = first
        rows = first.model_table().models
        others = (ControllerClient.find(name=name) for name in dict.fromkeys(row.controller for row in rows))
        self._others = [one for one in others if one is not None and one.actor != first.actor]

    def status(self) -> "FleetStatus":
        return self._first.status()

    def nodes(self) -> "tuple[NodeStatus, ...]":
        """Each with the workers of all models."""
        found = {node.node_id: node for node in self._first.nodes()}
        for fleet in self._others:
            for node in fleet.nodes():
                if node.node_id in found:
                    known = found[node.node_id]
                    found[node.node_id] = replace(known, workers=(*known.workers, *node.workers))
        return tuple(found.values())

    def roles(self) -> "tuple[WorkerRole, ...]":
        return tuple(one for fleet in (self._first, *self._others) for one in fleet.roles())

    def set_role(self, worker_id: str, role: Role | None) -> "RoleChanged":
        """As of `Controller.set_role`."""
        for fleet in self._others:
            if any(one.worker_id == worker_id for one in fleet.roles()):
                return fleet.set_role(worker_id, role)
        return self._first.set_role(worker_id, role)

    def drain_node(self, name: str, *, undo: bool) -> str:
        """As of `Controller.drain_node`."""
        node_id = self._first.drain_node(name, undo=undo)
        for fleet in self._others:
            fleet.drain_node(node_id, undo=undo)
        return node_id

    def move_ingress(self) -> None:
        """To nodes that are not to be empty."""
        plan = self._first.plan()
        deploy_ingress(plan.config, self._first.model_table().staying(), avoid=plan.drained)
