"""The fleets of all models as one, for commands that are about nodes and workers, whosever they are."""

from dataclasses import replace
from typing import TYPE_CHECKING

from baton.errors import InvalidRequestError
from cluster.fleet.tick import BESIDE
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
        found = (ControllerClient.find(name=name) for name in dict.fromkeys(row.controller for row in rows))
        self._fleets = [one for one in found if one is not None] or [first]  # the first may have none any more

    def status(self) -> "FleetStatus":
        return self._first.status()

    def nodes(self) -> "tuple[NodeStatus, ...]":
        """Each with the workers of all models."""
        found = {node.node_id: node for node in self._fleets[0].nodes()}
        for fleet in self._fleets[1:]:
            for node in fleet.nodes():
                if node.node_id in found:
                    known = found[node.node_id]
                    found[node.node_id] = replace(known, workers=(*known.workers, *node.workers))
        return tuple(found.values())

    def roles(self) -> "tuple[WorkerRole, ...]":
        return tuple(one for fleet in self._fleets for one in fleet.roles())

    def set_role(self, worker_id: str, role: Role | None) -> "RoleChanged":
        """As of `Controller.set_role`."""
        known = [(fleet, one.worker_id) for fleet in self._fleets for one in fleet.roles()]
        its = [fleet for fleet, name in known if _is(worker_id, name)]
        if not its:
            names = ", ".join(name for _, name in known)
            raise InvalidRequestError(
                f"worker: there is no {worker_id[:60]!r}; name one of {names or 'none: none runs'}", "worker"
            )
        return its[0].set_role(worker_id, role)

    def drain_node(self, name: str, *, undo: bool) -> str:
        """As of `Controller.drain_node`."""
        node_id = self._fleets[0].drain_node(name, undo=undo)
        for fleet in self._fleets[1:]:
            fleet.drain_node(node_id, undo=undo)
        return node_id

    def move_ingress(self) -> None:
        """To nodes that are not to be empty."""
        plan = self._fleets[0].plan()
        deploy_ingress(plan.config, self._first.model_table().staying(), avoid=plan.drained)


def _is(name: str, worker_id: str) -> bool:
    """Whether a name is a worker's, or its slot's: `chat.decode-1` of `chat.decode-1b`."""
    return worker_id == name or worker_id.removesuffix(BESIDE) == name
