"""On which nodes ingress replicas are, by what each takes of Ray's accounting."""

import pytest

from cluster.config.load import loads
from cluster.fleet.nodes import ON_HEAD
from cluster.ingress.places import resources_of


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
