"""Where the ingress runs: on which nodes Serve puts replicas and proxies."""

from collections.abc import Collection, Mapping
from typing import Any

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from cluster.host.ports import check_host

NODE_LABEL = "ray.io/node-id"  # of every node, given by Ray
SURGE_PERCENT = 25  # at least one


def resources_of(config: BatonConfig) -> dict[str, float]:
    """Of Ray's accounting, that each replica takes: they say on which nodes replicas are."""
    from cluster.fleet.nodes import ON_HEAD

    if config.http.node_resource:
        return {config.http.node_resource: 1.0}
    return ON_HEAD if config.http.replicas == 1 else {}  # without the head nothing goes on anyway


def actor_options(resources: Mapping[str, float], avoid: Collection[str]) -> dict[str, Any]:
    """Of a replica.

    Args:
        avoid: Ids of nodes where it may not be.
    """
    labels = {"label_selector": {NODE_LABEL: f"!in({','.join(sorted(avoid))})"}} if avoid else {}
    return {"num_cpus": 0, **({"resources": dict(resources)} if resources else {}), **labels}


def surge_percent(config: BatonConfig) -> int:
    """Replicas that may be beside those that they replace, of those that there are; 0: nodes have no room for more."""
    from cluster.fleet import nodes

    name, most = config.http.node_resource, config.http.replicas + -(-config.http.replicas * SURGE_PERCENT // 100)
    room = sum(node.resources.get(name, 0.0) for node in nodes.alive()) if name else most
    return SURGE_PERCENT if room >= most else 0


def proxy_location(host: str) -> str:
    """One address is one machine's; all of them are every node's that holds a replica, and the head's.

    Raises: ConfigError: the address is this machine's, and the head node is another.
    """
    if host in ("0.0.0.0", "::"):
        return "EveryNode"
    from cluster.fleet import nodes

    head = nodes.alive()[0]
    try:
        check_host(head.address)
    except ConfigError as error:
        raise ConfigError(
            f"http.host: {host} is this machine's, but Serve's proxy runs on Ray's head node {head.address}; "
            "set http.host: 0.0.0.0, or run `baton up` there"
        ) from error
    return "HeadOnly"
