"""A RAY_ADDRESS that leads nowhere is told at once, before Ray is imported."""

import socket

import pytest

from baton.errors import ConfigError, UnavailableError
from cluster.host.state import ClusterState
from cluster.local import ray_node as local_ray


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", "127.0.0.1:", ":6379"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS: '.*' is no address; give host:port"):
        local_ray.connect(ClusterState(cluster_id="c", address=address), namespace="baton")


def test_an_address_where_nobody_answers_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"RAY_ADDRESS: nothing answers at {address}"):
            local_ray.connect(ClusterState(cluster_id="c", address=address), namespace="baton")
