"""The cluster that `keeper` keeps: this home's, on the Ray of RAY_ADDRESS."""

from collections.abc import Callable, Mapping

from baton.errors import UnavailableError
from cluster.config.entries import with_each
from cluster.config.schema import AUTO, BatonConfig
from cluster.host import state
from cluster.local import ray_node as local_ray
from cluster.local.bring_up import bring_up, serve_env, take_down
from cluster.models.find import draft_in_full

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
        self._env: Mapping[str, str] = {}  # of the last connection

    def up(self, config: BatonConfig) -> None:
        is_running = self._find(config)

        def resolved(fleet: BatonConfig) -> BatonConfig:
            """What runs goes on with the model that was chosen at its start."""
            return draft_in_full(fleet) if fleet.model == AUTO and is_running else self._resolve(fleet)

        bring_up(with_each(config, resolved), self._report, self._warn)

    def down(self) -> None:
        take_down(30.0, self._report)

    def is_whole(self) -> bool:
        from cluster.fleet.client import ControllerClient

        controller = ControllerClient.find()
        if controller is None:
            raise UnavailableError("Ray has no controller any more: it was started anew, or `baton down` ended it")
        return controller.status().ready

    def _find(self, config: BatonConfig) -> bool:
        """Makes the state on disk what it is on Ray: a head that was replaced has lost the one, a new Ray the other.

        Returns: whether a cluster of this home is there.
        """
        cluster = state.read() or local_ray.new_state()
        self._connect(cluster, serve_env(config, ""))
        from cluster.fleet.client import ControllerClient
        from cluster.fleet.owner import Owner

        controller = ControllerClient.find()
        if controller is None:
            state.remove()
            return False
        controller.check_owner(Owner.here(state.cluster_secret()))
        state.write(cluster)
        return True

    def _connect(self, cluster: state.ClusterState, env: Mapping[str, str]) -> None:
        """With the environment of now: `bring_up` finds this connection, and what it starts has its environment."""
        if env != self._env:
            local_ray.disconnect()
        local_ray.prepare(cluster, env)
        local_ray.connect(cluster, namespace="baton", actors_env=env)
        self._env = env
