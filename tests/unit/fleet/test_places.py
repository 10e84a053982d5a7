"""Nodes and cores of workers of several ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from baton.errors import ConfigError
from cluster.config.schema import PoolConfig, PoolsConfig
from cluster.fleet.needs import Need
from cluster.fleet.nodes import Node
from cluster.fleet.places import Ground, Taken, check_gpus, too_few_nodes
from cluster.fleet.status import RankStatus

PACKED = PoolConfig(workers=2, tensor_parallel=2)
SPREAD = PoolConfig(workers=2, tensor_parallel=2, placement="spread")


def node(number: int, labels: Mapping[str, str] | None = None, **resources: float) -> Node:
    return Node(
        node_id=f"n{number}",
        address=f"10.0.0.{number}",
        num_gpus=resources.get("GPU", 0),
        resources={"CPU": 8, **resources},
        labels=labels or {},
    )


def ground(
    num_nodes: int,
    taken: Sequence[Taken] = (),
    num_ranks: int = 4,
    pool: PoolConfig = PACKED,
    nodes: Sequence[Node] | None = None,
) -> Ground:
    return Ground(
        nodes=nodes if nodes is not None else [node(number) for number in range(num_nodes)],
        cores={f"n{number}": (0, 1, 2, 3) for number in range(num_nodes)},
        taken=taken,
        num_ranks=num_ranks,
        needs={"mixed": Need.of(pool, 0.0)},
    )


def placed(ground: Ground, index: int, pool: PoolConfig) -> tuple[RankStatus, ...]:
    """As Ray would, where the targets are free."""
    name = f"mixed-{index}"
    return ground.ranks(name, index, pool, ground.targets(name, "mixed", pool))


def both(num_nodes: int, pool: PoolConfig) -> list[list[tuple[str, tuple[int, ...]]]]:
    """(node, cores) of each rank of two workers, placed one after the other."""
    taken: list[Taken] = []
    found = []
    for index in range(2):
        ranks = placed(ground(num_nodes, taken, pool=pool), index, pool)
        taken += [Taken(worker_id=f"mixed-{index}", role="mixed", rank=rank) for rank in ranks]
        found.append([(rank.node_id, rank.cores) for rank in ranks])
    return found


def test_the_ranks_of_a_packed_worker_are_on_one_node_and_workers_on_different_ones() -> None:
    assert both(1, PACKED) == [[("n0", (0,)), ("n0", (1,))], [("n0", (2,)), ("n0", (3,))]]
    assert both(2, PACKED) == [[("n0", (0, 1)), ("n0", (2, 3))], [("n1", (0, 1)), ("n1", (2, 3))]]


def test_the_ranks_of_a_spread_worker_are_on_as_many_nodes_as_there_are() -> None:
    assert both(2, SPREAD) == [[("n0", (0, 1)), ("n1", (0, 1))], [("n0", (2, 3)), ("n1", (2, 3))]]
    assert both(1, SPREAD) == both(1, PACKED)


def test_cores_of_the_config_are_divided_among_the_ranks() -> None:
    pool = PoolConfig(workers=1, tensor_parallel=2, cores=((4, 5, 6, 7),))
    assert [rank.cores for rank in placed(ground(1), 0, pool)] == [(4, 5), (6, 7)]
    spread = PoolConfig(workers=1, tensor_parallel=2, placement="spread", cores=((4, 5, 6, 7),))
    assert [rank.cores for rank in placed(ground(2, pool=spread), 0, spread)] == [(4, 5), (6, 7)]


def test_a_core_that_two_ranks_have_is_not_exclusive() -> None:
    mine, beside = RankStatus(node_id="n0", cores=(0,)), RankStatus(node_id="n0", cores=(1,))
    other = Taken(worker_id="mixed-1", role="mixed", rank=RankStatus(node_id="n0", cores=(0, 2)))
    elsewhere = Taken(worker_id="mixed-1", role="mixed", rank=RankStatus(node_id="n1", cores=(0, 2)))
    assert ground(2, [elsewhere]).is_exclusive(mine, [beside])
    assert not ground(2, [other]).is_exclusive(mine, [beside])
    assert not ground(2).is_exclusive(mine, [mine])


def test_ranks_that_no_node_has_the_gpus_for_are_refused_by_name_unless_they_are_spread() -> None:
    nodes = [Node(node_id=f"n{number}", address=f"10.0.0.{number}", num_gpus=2) for number in range(2)]
    four = PoolConfig(workers=1, tensor_parallel=4)
    with pytest.raises(
        ConfigError, match=r"pools\.mixed\.tensor_parallel: 4 ranks take 4 GPUs of one node, the largest"
    ):
        check_gpus(nodes, "mixed", four, 1.0)
    both = PoolConfig(workers=1, sequence_parallel=2, tensor_parallel=2)
    with pytest.raises(
        ConfigError, match=r"prefill\.sequence_parallel: 4 ranks \(2 times tensor_parallel 2\) take 4 GPUs"
    ):
        check_gpus(nodes, "prefill", both, 1.0)
    check_gpus(nodes, "mixed", replace(four, placement="spread"), 1.0)
    check_gpus(nodes, "mixed", four, 0.5)
    check_gpus(nodes, "mixed", replace(four, tensor_parallel=2), 1.0)


def test_ranks_to_be_spread_over_more_nodes_than_there_are_are_told_of() -> None:
    pools = PoolsConfig(prefill=PoolConfig(workers=1), decode=SPREAD)
    (said,) = too_few_nodes(pools, 1)
    assert said == ("pools.decode.placement: spread wants 2 nodes for a worker's 2 ranks, there is 1: ranks share them")
    assert not list(too_few_nodes(pools, 2))


def test_a_pool_gets_nodes_with_its_resources_and_labels_alone() -> None:
    pool = PoolConfig(workers=2, resources={"baton_decode": 1.0}, labels={"baton.dev/pool": "decode"})
    nodes = [node(0), node(1, baton_decode=1), node(2, {"baton.dev/pool": "decode"}, baton_decode=1)]
    first = ground(3, pool=pool, nodes=nodes)
    assert first.targets("mixed-0", "mixed", pool) == ("n2",)
    taken = [Taken(worker_id="mixed-0", role="mixed", rank=RankStatus(node_id="n2"))]
    assert ground(3, taken, pool=pool, nodes=nodes).targets("mixed-1", "mixed", pool) == ()


def test_ranks_that_are_to_be_together_need_a_node_with_room_for_all() -> None:
    pool = PoolConfig(workers=1, tensor_parallel=2, resources={"baton_prefill": 1.0})
    nodes = [node(0, baton_prefill=1), node(1, baton_prefill=1)]
    assert ground(2, pool=pool, nodes=nodes).targets("mixed-0", "mixed", pool) == ()
    spread = replace(pool, placement="spread")
    assert ground(2, pool=spread, nodes=nodes).targets("mixed-0", "mixed", spread) == ("n0", "n1")
    assert ground(2, pool=spread, nodes=nodes[:1]).targets("mixed-0", "mixed", spread) == ()


def test_pools_that_ask_for_certain_nodes_may_wait_for_them() -> None:
    pool = PoolConfig(workers=1, tensor_parallel=4, resources={"baton_decode": 1.0})
    check_gpus([node(0)], "decode", pool, 1.0)
    assert not list(too_few_nodes(PoolsConfig(decode=replace(pool, placement="spread")), 1))
