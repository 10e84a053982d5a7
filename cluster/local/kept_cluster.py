"""The cluster that `keeper` keeps: this home's, on the Ray of RAY_ADDRESS."""

from collections.abc import Callable

from baton.errors import UnavailableError
from cluster.config.schema import BatonConfig
from cluster.host import state
from cluster.local import ray_node as local_ray
from cluster.local.bring_up import bring_up, serve_settings, take_down

Report = Callable[[str], None]


class KeptCluster:
    """
    Args:
        resolve: Finds the models that a config names, fetched where they are fetched by name.
        report: As of `bring_up`, and so `warn`.
    """

    def __init__(self, resolve: Callable[[BatonConfig], BatonConfig], report: Report, warn: Report) -> None:
        self._resolve = resolve
        self._report = report
        self._warn = warn

    def up(self, config: BatonConfig) -> None:
        self._find(config)
        bring_up(self._resolve(config), self._report, self._warn)

    def down(self) -> None:
        take_down(30.0, self._report)

    def is_whole(self) -> bool:
        from cluster.fleet.client import ControllerClient

        controller = ControllerClient.find()
        if controller is None:
            raise UnavailableError("Ray has no controller any more: it was started anew, or `baton down` ended it")
        return controller.status().ready

    def _find(self, config: BatonConfig) -> None:
        """Makes the state on disk what it is on Ray: a head that was replaced has lost the one, a new Ray the other."""
        cluster = state.read() or local_ray.new_state()
        serve_env = serve_settings(config, cluster)
        local_ray.prepare(cluster, serve_env)
        local_ray.connect(cluster, namespace="baton", actors_env=serve_env)
        from cluster.fleet.client import ControllerClient
        from cluster.fleet.owner import Owner

        controller = ControllerClient.find()
        if controller is None:
            state.remove()
            local_ray.disconnect()  # one that failed before has the settings of its file
        else:
            controller.check_owner(Owner.here(state.cluster_secret()))
            state.write(cluster)
