"""On which nodes ingress replicas are, by what each takes of Ray's accounting."""

import pytest

from cluster.config.load import loads
from cluster.fleet import nodes
from cluster.fleet.nodes import ON_HEAD
from cluster.ingress.places import actor_options, resources_of, surge_percent


@pytest.mark.parametrize(
    ("http", "takes"),
    [
        ("{}", ON_HEAD),
        ("{replicas: 2}", {}),
        ("{node_resource: doors}", {"doors": 1.0}),
        ("{replicas: 2, node_resource: doors}", {"doors": 1.0}),
    ],
)
def test_replicas_are_on_the_head_anywhere_or_where_a_resource_is(http: str, takes: dict[str, float]) -> None:
    assert resources_of(loads(f"http: {http}")) == takes


@pytest.mark.parametrize(
    ("http", "room", "percent"),
    [
        ("{}", 0, 25),
        ("{replicas: 4}", 0, 25),
        ("{replicas: 2, node_resource: doors}", 2, 0),
        ("{replicas: 2, node_resource: doors}", 3, 25),
    ],
)
def test_a_new_replica_stands_beside_the_old_one_where_there_is_room(
    http: str, room: float, percent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = nodes.Node(node_id="n", address="10.0.0.1", num_gpus=0, resources={"doors": room})
    monkeypatch.setattr(nodes, "alive", lambda: [there])
    assert surge_percent(loads(f"http: {http}")) == percent


def test_no_replica_goes_where_nodes_are_to_be_empty() -> None:
    assert actor_options({}, ()) == {"num_cpus": 0}
    assert actor_options({"doors": 1.0}, ["b", "a"]) == {
        "num_cpus": 0,
        "resources": {"doors": 1.0},
        "label_selector": {"ray.io/node-id": "!in(a,b)"},
    }
