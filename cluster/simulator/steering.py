"""What a pilot sees and may change of a simulated fleet; as a controller would, it knows nothing of what is to come."""

from collections.abc import Mapping, Sequence

from cluster.contracts.simulation import RequestRecord, SimCluster
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.simulator.events import EventQueue
from cluster.simulator.fleet import SimFleet
from cluster.simulator.ingress import SimIngress
from cluster.simulator.invariants import Invariants
from workers.engine.stats import EngineStats
from workers.spec import Role


class Steering:
    """See `cluster.contracts.simulation.SteeredFleet`."""

    def __init__(
        self,
        *,
        cluster: SimCluster,
        queue: EventQueue,
        fleet: SimFleet,
        ingress: SimIngress,
        invariants: Invariants,
        records: Sequence[RequestRecord],
    ) -> None:
        self.records = records
        self.tuning = UNTUNED
        self._cluster = cluster
        self._queue = queue
        self._fleet = fleet
        self._ingress = ingress
        self._invariants = invariants

    @property
    def now_s(self) -> float:
        return self._queue.now_s

    @property
    def roles(self) -> Mapping[str, Role]:
        return self._fleet.roles

    @property
    def is_settled(self) -> bool:
        return self._fleet.is_whole

    @property
    def worker_s(self) -> float:
        return self._fleet.worker_s

    def stats(self) -> Mapping[str, EngineStats]:
        for worker in self._fleet.workers.values():
            worker.sync()
        return {name: worker.stats for name, worker in self._fleet.workers.items()}

    def set_role(self, worker_id: str, role: Role) -> bool:
        return self._fleet.set_role(worker_id, role)

    def set_count(self, role: Role, count: int) -> None:
        self._fleet.set_count(role, count)

    def tune(self, tuning: Tuning) -> None:
        self.tuning = tuning
        router = tuning.router(self._cluster.router)
        self._ingress.tune(router)
        self._invariants.tuned(router, self._ingress.admission)
        self._fleet.tune(tuning)
