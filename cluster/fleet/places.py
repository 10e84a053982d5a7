"""Which nodes and cores the ranks of a new worker get. Pure: nothing is asked, nothing is started."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from baton.errors import ConfigError
from cluster.config.schema import SPREAD, AnyPool, PoolsConfig
from cluster.fleet.cores import share, split
from cluster.fleet.nodes import Node, choose
from cluster.fleet.status import RankStatus

DEGREES = ("sequence_parallel", "tensor_parallel", "layer_parallel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A rank that is there already."""

    worker_id: str
    role: str
    rank: RankStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """
    Attributes:
        cores: Of each node, by its id.
        num_ranks: Of all workers that are wanted.
    """

    nodes: Sequence[Node]
    cores: Mapping[str, tuple[int, ...]]
    taken: Sequence[Taken]
    num_ranks: int
    device: str

    def places(self, worker_id: str, role: str, index: int, pool: AnyPool) -> tuple[RankStatus, ...]:
        """For each rank of worker number `index` of `pool`, the leader first."""
        if pool.placement == SPREAD:
            return self._spread(worker_id, index, pool)
        placed = [(taken.rank.node_id, taken.role) for taken in self.taken]
        node = choose(self.nodes, placed, role, self.device)
        cores = pool.cores[index] if pool.cores is not None else self._cores(node.node_id, self.taken, pool.num_ranks)
        return tuple(RankStatus(node_id=node.node_id, cores=mine) for mine in split(cores, pool.num_ranks))

    def is_exclusive(self, rank: RankStatus, beside: Sequence[RankStatus]) -> bool:
        """Whether nobody else holds one of the rank's cores; `beside`: the other ranks of its worker."""
        others = [*beside, *(taken.rank for taken in self.taken)]
        return all(set(rank.cores).isdisjoint(other.cores) for other in others if other.node_id == rank.node_id)

    def _spread(self, worker_id: str, index: int, pool: AnyPool) -> tuple[RankStatus, ...]:
        wanted = split(pool.cores[index], pool.num_ranks) if pool.cores is not None else None
        taken = list(self.taken)
        for number in range(pool.num_ranks):
            placed = [(one.rank.node_id, one.worker_id) for one in taken]
            node_id = choose(self.nodes, placed, worker_id, self.device).node_id
            cores = wanted[number] if wanted is not None else self._cores(node_id, taken, 1)
            rank = RankStatus(node_id=node_id, cores=cores)
            taken.append(Taken(worker_id=worker_id, role="", rank=rank))
        return tuple(one.rank for one in taken[len(self.taken) :])

    def _cores(self, node_id: str, taken: Sequence[Taken], size: int) -> tuple[int, ...]:
        here = [one.rank.cores for one in taken if one.rank.node_id == node_id]
        num_here = max(-(-self.num_ranks // len(self.nodes)), len(here) + size)
        return share(self.cores.get(node_id) or (0,), here, num_here, size)


def too_few_nodes(pools: PoolsConfig, num_nodes: int) -> Iterator[str]:
    """In words, the pools whose workers' ranks cannot each have a node of its own as they are to."""
    for name, pool in pools.by_name():
        if pool.workers and pool.placement == SPREAD and pool.num_ranks > num_nodes:
            there = "there is 1" if num_nodes == 1 else f"there are {num_nodes}"
            yield (
                f"pools.{name}.placement: spread wants {pool.num_ranks} nodes for a worker's {pool.num_ranks} ranks, "
                f"{there}: ranks share them"
            )


def check_gpus(nodes: Sequence[Node], name: str, pool: AnyPool, per_rank: float) -> None:
    """Raises: ConfigError: no node has the GPUs for all ranks of a worker of pool `name`, which are to be on one.

    Args:
        per_rank: GPUs that each rank takes.
    """
    largest = max((node.num_gpus for node in nodes), default=0.0)
    wanted = pool.num_ranks * per_rank
    if pool.placement != SPREAD and wanted > largest:
        degrees = {name: getattr(pool.gang, name) for name in DEGREES}
        degree, *others = [name for name in DEGREES if degrees[name] > 1] or ["tensor_parallel"]
        product = "".join(f" ({degrees[degree]} times {other} {degrees[other]})" for other in others)
        raise ConfigError(
            f"pools.{name}.{degree}: {pool.num_ranks} ranks{product} take {wanted:g} GPUs of one node, the largest "
            f"has {largest:g}; lower it, or set pools.{name}.placement: spread"
        )
