"""A Ray cluster that is somebody else's: which of its Baton cluster is this home's, and its end without Ray's.

One Ray cluster holds one Baton cluster. Ray is imported when called; the caller has connected.
"""

from concurrent.futures import ThreadPoolExecutor

from baton.errors import ConfigError
from cluster.host import state
from cluster.host.state import ClusterState
from cluster.local import ray_node as local_ray


def check_address(found: ClusterState | None) -> None:
    """Raises: ConfigError: RAY_ADDRESS names another Ray than that on which this home's cluster runs."""
    address = local_ray.external_address()
    if address and found is not None and local_ray.is_running(found) and found.address != address:
        where = "a Ray of its own" if found.folder else f"the Ray at {found.address}"
        raise ConfigError(
            f"RAY_ADDRESS: {address}, but the cluster of BATON_HOME={state.home()} runs on {where}; "
            "run `baton down` first, or choose another BATON_HOME"
        )


def end_leftovers() -> bool:
    """Ends a cluster of this home whose state was lost; whether there was one.

    Raises: ConfigError: another home's cluster is there.
    """
    from cluster.fleet.client import ControllerClient
    from cluster.fleet.owner import Owner

    controller = ControllerClient.find()
    if controller is None:
        return False
    controller.check_owner(Owner.here(state.cluster_secret()))
    end(0.0)
    return True


def end(drain_timeout_s: float, *, undeploy: bool = True) -> None:
    """Workers first: their requests' answers still go through the ingress. A local Ray ends the ingress by itself.

    Another home's cluster is let alone.
    """
    from cluster.fleet.client import ControllerClient
    from cluster.fleet.owner import Owner

    controller = ControllerClient.find()
    if controller is not None:
        if not controller.owner().is_same(Owner.here(state.cluster_secret())):
            return
        end_further(drain_timeout_s)
        controller.clear_models()
        controller.shutdown(drain_timeout_s)
    if undeploy:
        from cluster.ingress.app import undeploy as end_ingress

        end_ingress()


def end_further(drain_timeout_s: float) -> None:
    """The controllers of all models but the first, side by side."""
    from cluster.fleet.client import further

    controllers = further()
    if not controllers:
        return
    with ThreadPoolExecutor(max_workers=len(controllers), thread_name_prefix="end") as pool:
        list(pool.map(lambda controller: controller.shutdown(drain_timeout_s), controllers))


def head_address() -> str:
    """Where a proxy that binds every address is reached, whatever the node that asks."""
    from cluster.fleet import nodes

    return nodes.alive()[0].address
