"""What each rank of a pool's workers takes of its node, which nodes have it, and in words what they wait for. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.config.node_terms import selects
from cluster.config.schema import SPREAD, AnyPool
from cluster.fleet.nodes import Node

NUM_CPUS = 0.1  # of Ray's accounting: cores are shared out by `cluster.fleet.cores`, not by Ray
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """
    Attributes:
        resources: Of each rank, CPU and GPU among them.
        num_together: Ranks that must have one node together; 1: each may have its own.
        num_ranks: Of one worker.
    """

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    num_together: int = 1
    num_ranks: int = 1

    @classmethod
    def of(cls, pool: AnyPool, num_gpus: float) -> "Need":
        """
        Args:
            num_gpus: That each rank takes.
        """
        gpus = {"GPU": num_gpus} if num_gpus else {}
        return cls(
            resources={"CPU": NUM_CPUS, **gpus, **pool.resources},
            labels=pool.labels,
            num_together=1 if pool.placement == SPREAD else pool.num_ranks,
            num_ranks=pool.num_ranks,
        )

    def fits(self, node: Node, held: Mapping[str, float] | None = None) -> bool:
        """Whether the node, less what is `held` of it, has room for the ranks that are to be together."""
        held = held or {}
        return selects(self.labels, node.labels) and all(
            node.resources.get(name, 0.0) - held.get(name, 0.0) + _SLACK >= amount * self.num_together
            for name, amount in self.resources.items()
        )

    def __str__(self) -> str:
        shown = {name: amount for name, amount in self.resources.items() if name != "CPU"}
        asked = [_map(shown or self.resources)] if shown or not self.labels else []
        labels = _map(self.labels)
        asked += [f"a node with {'the label' if len(self.labels) == 1 else 'labels'} {labels}"] if self.labels else []
        text = " on ".join(asked)
        if self.num_together > 1:
            return f"{self.num_together} times {text}, all on one node"
        return f"{self.num_ranks} times {text}" if self.num_ranks > 1 else text


def waits(name: str, need: Need, *, num_waiting: int, num_wanted: int, nodes: Sequence[Node], refused: str = "") -> str:
    """One line: which workers of pool `name` wait, for what, and why nobody has it.

    Args:
        nodes: Those that may be used.
        refused: Why nodes that have it are not; empty: there are none.
    """
    noun = "worker waits" if num_wanted == 1 else "workers wait"
    who = f"pools.{name}: {num_waiting} of {num_wanted} {noun} for {need}"
    having = [node.address for node in nodes if need.fits(node)]
    if not having:
        return f"{who}; {refused or 'no node has it'}"
    verb, more = ("has", "") if len(having) == 1 else ("have", f" and {len(having) - 1} more")
    why = f"{having[0]}{more} {verb} it, and others hold it"
    return f"{who}; {why}; {refused}" if refused else f"{who}; {why}"


def _map(values: Mapping[str, object]) -> str:
    shown = [f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {value}" for key, value in values.items()]
    return "{" + ", ".join(shown) + "}"
