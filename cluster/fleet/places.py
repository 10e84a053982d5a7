"""Which nodes the ranks of a new worker had best have, and which cores they get there. Pure: nothing is asked, nothing
is started. Where they really are is Ray's to say: resources may be somebody else's by then.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from baton.errors import ConfigError
from cluster.config.schema import SPREAD, AnyPool, PoolsConfig
from cluster.fleet.cores import share, split
from cluster.fleet.needs import Need
from cluster.fleet.nodes import Node, choose
from cluster.fleet.status import RankStatus

DEGREES = ("sequence_parallel", "tensor_parallel", "layer_parallel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A rank that is there already, or has asked for a place."""

    worker_id: str
    role: str
    rank: RankStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """
    Attributes:
        nodes: Those that may be used.
        cores: Of each node, by its id.
        capped: Ids of nodes where cores are a number and no certain ones: nobody is pinned there.
        num_ranks: Of all workers that are wanted.
        needs: Of each role, what a rank of its workers takes.
    """

    nodes: Sequence[Node]
    cores: Mapping[str, tuple[int, ...]]
    taken: Sequence[Taken]
    num_ranks: int
    needs: Mapping[str, Need]
    capped: Collection[str] = ()

    def targets(self, worker_id: str, role: str, pool: AnyPool) -> tuple[str, ...]:
        """Node ids, one for each rank, where there is room for all by our own count; empty: the worker has to wait."""
        taken = list(self.taken)
        if pool.placement != SPREAD:
            node = self._choose([(one.rank.node_id, one.role) for one in taken], role, role, taken)
            return (node.node_id,) * pool.num_ranks if node else ()
        for _ in range(pool.num_ranks):
            node = self._choose([(one.rank.node_id, one.worker_id) for one in taken], worker_id, role, taken)
            if node is None:
                return ()
            taken.append(Taken(worker_id=worker_id, role=role, rank=RankStatus(node_id=node.node_id)))
        return tuple(one.rank.node_id for one in taken[len(self.taken) :])

    def ranks(self, worker_id: str, index: int, pool: AnyPool, node_ids: Sequence[str]) -> tuple[RankStatus, ...]:
        """The ranks of worker number `index` of `pool`, which have places on these nodes, with their cores."""
        listed = pool.cores[index] if pool.cores is not None else None
        if pool.placement != SPREAD:
            cores = listed if listed is not None else self._cores(node_ids[0], self.taken, pool.num_ranks)
            shares = split(cores, pool.num_ranks)
            return tuple(RankStatus(node_id=one, cores=mine) for one, mine in zip(node_ids, shares, strict=True))
        wanted = split(listed, pool.num_ranks) if listed is not None else None
        taken = list(self.taken)
        for number, node_id in enumerate(node_ids):
            cores = wanted[number] if wanted is not None else self._cores(node_id, taken, 1)
            taken.append(Taken(worker_id=worker_id, role="", rank=RankStatus(node_id=node_id, cores=cores)))
        return tuple(one.rank for one in taken[len(self.taken) :])

    def is_exclusive(self, rank: RankStatus, beside: Sequence[RankStatus]) -> bool:
        """Whether nobody else holds one of the rank's cores; `beside`: the other ranks of its worker."""
        if rank.node_id in self.capped:
            return False
        others = [*beside, *(taken.rank for taken in self.taken)]
        return all(set(rank.cores).isdisjoint(other.cores) for other in others if other.node_id == rank.node_id)

    def _choose(self, placed: Sequence[tuple[str, str]], name: str, role: str, taken: Sequence[Taken]) -> Node | None:
        need = self.needs[role]
        return choose([node for node in self.nodes if need.fits(node, self._held(node, taken))], placed, name)

    def _held(self, node: Node, taken: Sequence[Taken]) -> Mapping[str, float]:
        held: dict[str, float] = {}
        for one in taken:
            if one.rank.node_id == node.node_id:
                for name, amount in self.needs[one.role].resources.items():
                    held[name] = held.get(name, 0.0) + amount
        return held

    def _cores(self, node_id: str, taken: Sequence[Taken], size: int) -> tuple[int, ...]:
        here = [one.rank.cores for one in taken if one.rank.node_id == node_id]
        num_here = max(-(-self.num_ranks // max(1, len(self.nodes))), len(here) + size)
        return share(self.cores.get(node_id) or (0,), here, num_here, size)


def too_few_nodes(pools: PoolsConfig, num_nodes: int) -> Iterator[str]:
    """In words, the pools whose workers' ranks cannot each have a node of its own as they are to.

    Where a pool asks for certain nodes, `cluster.fleet.needs` says what is missing.
    """
    for name, pool in pools.by_name():
        if pool.workers and not pool.is_choosy and pool.placement == SPREAD and pool.num_ranks > num_nodes:
            there = "there is 1" if num_nodes == 1 else f"there are {num_nodes}"
            yield (
                f"pools.{name}.placement: spread wants {pool.num_ranks} nodes for a worker's {pool.num_ranks} ranks, "
                f"{there}: ranks share them"
            )


def check_gpus(nodes: Sequence[Node], name: str, pool: AnyPool, per_rank: float) -> None:
    """Raises: ConfigError: no node has the GPUs for all ranks of a worker of pool `name`, which are to be on one.

    Nodes that a pool asks for by resources or labels may come yet.

    Args:
        per_rank: GPUs that each rank takes.
    """
    largest = max((node.num_gpus for node in nodes), default=0.0)
    wanted = pool.num_ranks * per_rank
    if pool.placement != SPREAD and wanted > largest and not pool.is_choosy:
        degrees = {name: getattr(pool.gang, name) for name in DEGREES}
        degree, *others = [name for name in DEGREES if degrees[name] > 1] or ["tensor_parallel"]
        product = "".join(f" ({degrees[degree]} times {other} {degrees[other]})" for other in others)
        raise ConfigError(
            f"pools.{name}.{degree}: {pool.num_ranks} ranks{product} take {wanted:g} GPUs of one node, the largest "
            f"has {largest:g}; lower it, or set pools.{name}.placement: spread"
        )
