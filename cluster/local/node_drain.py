"""Empties a node of the running cluster, for `baton drain`: its workers first, then the ingress replicas there."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from baton.errors import UnavailableError
from cluster.local.roll_out import RolloutHaltedError

if TYPE_CHECKING:
    from cluster.fleet.node_drain import NodeStatus
    from cluster.fleet.status import FleetStatus

POLL_S = 0.5


class Fleet(Protocol):
    def status(self) -> "FleetStatus": ...

    def nodes(self) -> "tuple[NodeStatus, ...]": ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDrain:
    """
    Args:
        move_ingress: Starts replicas on nodes that are not to be empty, in place of all others.
    """

    fleet: Fleet
    move_ingress: Callable[[], object]
    report: Callable[[str], None]
    timeout_s: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def follow(self, node_id: str) -> "NodeStatus | None":
        """Returns the node when it is empty; None: it has left the cluster by itself.

        Raises: RolloutHaltedError; UnavailableError: something is there after `timeout_s`.
        """
        deadline, has_moved = self.clock() + self.timeout_s, False
        while (node := self._node(node_id)) is not None and not node.is_empty:
            if not node.workers and not has_moved:
                self.report("moving ingress replicas")
                self.move_ingress()
                has_moved = True
                continue
            left = self._left(node)
            self.report(f"{node.shown}: {left}")
            if self.clock() > deadline:
                raise UnavailableError(
                    f"{node.shown} is not empty after {self.timeout_s:g} s: {left}; it goes on by itself when it can, "
                    f"`baton drain {node.node_id[:8]} --undo` takes it back"
                )
            self.sleep(POLL_S)
        return node

    def _node(self, node_id: str) -> "NodeStatus | None":
        return next((node for node in self.fleet.nodes() if node.node_id == node_id), None)

    def _left(self, node: "NodeStatus") -> str:
        status = self.fleet.status()
        if status.rollout is not None and status.rollout.halted:
            raise RolloutHaltedError(
                f"{status.rollout.why} is halted: {status.rollout.halted}; its workers serve on. Mend it and try "
                f"again, or take it back: `baton drain {node.node_id[:8]} --undo`"
            )
        workers = [f"{', '.join(node.workers)} to be replaced"] if node.workers else []
        replicas = [f"ingress replicas: {node.num_ingress_replicas}"] if node.num_ingress_replicas else []
        return "; ".join([*workers, *replicas, *(pool.waits for pool in status.pools if pool.waits)])
