"""Nodes are named and emptied."""

import pytest

from baton.errors import InvalidRequestError
from cluster.config.schema import BatonConfig
from cluster.fleet.node_drain import find_node, statuses, with_drained
from cluster.fleet.nodes import ON_HEAD, Node
from cluster.fleet.plan import FleetPlan

HEAD = Node(node_id="aaaa1111", address="10.0.0.1", num_gpus=0, resources=ON_HEAD)
OTHER = Node(node_id="bbbb2222", address="10.0.0.2", num_gpus=0)
TWIN = Node(node_id="bbbb3333", address="10.0.0.2", num_gpus=0)
PLAN = FleetPlan(config=BatonConfig(), model_path="/m")


def test_a_node_has_its_address_and_the_beginning_of_its_id_for_names() -> None:
    for name in ("10.0.0.2", "bbbb2222", "bbbb"):
        assert find_node(name, [HEAD, OTHER]) is OTHER


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "10.0.0.9",
            r"NODE: '10\.0\.0\.9': no node of the cluster has this .*; there are 10\.0\.0\.1 \(aaaa1111\), 10",
        ),
        ("aaa", "no node of the cluster"),
        (
            "10.0.0.2",
            r"several nodes have it; give an id; there are 10\.0\.0\.2 \(bbbb2222\), 10\.0\.0\.2 \(bbbb3333\)",
        ),
    ],
)
def test_a_name_of_none_or_several_is_refused_with_those_that_are_there(name: str, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        find_node(name, [HEAD, OTHER, TWIN])


def test_the_head_stays_and_nodes_that_have_left_are_forgotten() -> None:
    with pytest.raises(InvalidRequestError, match=r"NODE: 10\.0\.0\.1 is the head"):
        with_drained(PLAN, HEAD, [HEAD, OTHER], undo=False)
    drained = with_drained(PLAN, OTHER, [HEAD, OTHER, TWIN], undo=False)
    assert drained.drained == ("bbbb2222",)
    assert with_drained(drained, OTHER, [HEAD, OTHER], undo=False) == drained, "again"
    assert with_drained(drained, TWIN, [HEAD, TWIN], undo=False).drained == ("bbbb3333",)
    assert with_drained(drained, OTHER, [HEAD, OTHER], undo=True) == PLAN


def test_each_node_says_what_is_on_it() -> None:
    plan = with_drained(PLAN, OTHER, [HEAD, OTHER], undo=False)
    head, other = statuses([HEAD, OTHER], plan, [], ["bbbb2222", "bbbb2222"])
    assert (head.is_head, head.is_drained, head.is_empty) == (True, False, True)
    assert (other.is_drained, other.num_ingress_replicas, other.is_empty) == (True, 2, False)
