"""What pools wait for, in words."""

import pytest

from cluster.config.schema import PoolConfig
from cluster.fleet.needs import Need, waits
from cluster.fleet.nodes import Node

DECODE = PoolConfig(workers=2, resources={"baton_decode": 1.0})
LABELLED = PoolConfig(workers=1, labels={"baton.dev/pool": "decode"})
GANG = PoolConfig(workers=1, sequence_parallel=4, resources={"baton_prefill": 1.0})


def node(address: str = "10.0.0.2", **resources: float) -> Node:
    return Node(node_id=address, address=address, num_gpus=0, resources={"CPU": 8, **resources})


@pytest.mark.parametrize(
    ("pool", "num_gpus", "said"),
    [
        (DECODE, 0.0, "{baton_decode: 1}"),
        (DECODE, 1.0, "{GPU: 1, baton_decode: 1}"),
        (PoolConfig(workers=1), 0.0, "{CPU: 0.1}"),
        (LABELLED, 0.0, "a node with the label {baton.dev/pool: decode}"),
        (GANG, 0.0, "4 times {baton_prefill: 1}, all on one node"),
    ],
)
def test_a_need_says_what_it_takes(pool: PoolConfig, num_gpus: float, said: str) -> None:
    assert str(Need.of(pool, num_gpus)) == said


def test_a_pool_says_how_many_of_its_workers_wait_for_what_and_why_they_have_it_not() -> None:
    need = Need.of(DECODE, 0.0)
    assert waits("decode", need, num_waiting=1, num_wanted=2, nodes=[node()]) == (
        "pools.decode: 1 of 2 workers wait for {baton_decode: 1}; no node has it"
    )
    assert waits("decode", need, num_waiting=1, num_wanted=2, nodes=[node(baton_decode=1)]).endswith(
        "; 10.0.0.2 has it, and others hold it"
    )
    assert waits(
        "decode", need, num_waiting=1, num_wanted=1, nodes=[node()], refused="node 10.0.0.3 is refused: it has no torch"
    ) == ("pools.decode: 1 of 1 worker waits for {baton_decode: 1}; node 10.0.0.3 is refused: it has no torch")
