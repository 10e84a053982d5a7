"""Finds each new worker its places: which nodes it had best ask Ray for, and what runs there once Ray has answered."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from baton.errors import UnavailableError
from cluster.config.schema import SPREAD, AnyPool
from cluster.fleet import launch, plan
from cluster.fleet.beside import Beside, Seat, Seats, summed
from cluster.fleet.cores import thread_env
from cluster.fleet.needs import Need, waits
from cluster.fleet.places import Ground, Taken
from cluster.fleet.plan import FleetPlan
from cluster.fleet.record import WorkerRecord
from cluster.fleet.status import RankStatus
from cluster.fleet.terrain import Terrain
from cluster.fleet.tick import LIVE, WorkerPhase
from cluster.logs.setup import FORMAT_VARIABLE
from workers.spec import Role

MAX_SEATINGS = 3  # of one worker, while other models' seek theirs
SHOWN_AFTER_S = 3.0  # a worker that has its places sooner did not wait: on a full machine Ray takes a second to answer


class Seating:
    """For one event loop.

    Args:
        plan: What is wanted now.
        workers: The last worker of each slot and side.
        worker_env: Of every worker's process.
        prefix: Before the ids of workers, as others know them.
        beside: What other models hold of the nodes; None: there are none.
    """

    def __init__(
        self,
        *,
        plan: Callable[[], FleetPlan],
        workers: Callable[[], Sequence[WorkerRecord]],
        secret: str,
        worker_env: Mapping[str, str],
        prefix: str = "",
        beside: Beside | None = None,
    ) -> None:
        self._get_plan = plan
        self._workers = workers
        self._secret = secret
        self._worker_env = worker_env
        self._prefix = prefix
        self._beside = beside
        self._others: dict[str, Seats] = {}  # by namespace, as of the last look
        self._terrain = Terrain()

    def fits_without(self, worker: WorkerRecord, going: Collection[WorkerRecord]) -> bool:
        """Whether a worker that waits would have its places if `going` were gone."""
        pool = self._pool(worker)
        return bool(self._ground(worker, without=going).targets(worker.worker_id, worker.role.value, pool))

    async def wish(self, worker: WorkerRecord, *, pinned: bool = True) -> launch.Wish:
        """What to ask Ray for; the worker's ranks count on their targets from now on.

        Args:
            pinned: Whether ranks that are spread name their nodes: those, and no other.
        """
        await self._learn()
        pool, ground = self._pool(worker), self._ground(worker)
        need = ground.needs[worker.role.value]
        worker.num_gpus = need.resources.get("GPU", 0.0)
        spread = pool.placement == SPREAD and pool.num_ranks > 1
        targets = ground.targets(worker.worker_id, worker.role.value, pool) if pinned or not spread else ()
        worker.ranks = tuple(RankStatus(node_id=node_id) for node_id in targets)
        by_id = {node.node_id: node for node in ground.nodes}
        nodes = [by_id[node_id] for node_id in targets]
        return launch.Wish(need=need, targets=nodes, spread=spread, drained=self._drained)

    async def settle(self, worker: WorkerRecord, node_ids: Sequence[str]) -> list[launch.RankPlace]:
        """What each rank runs with on the nodes that Ray gave, the leader first; the record's ranks say it too.

        Raises: UnavailableError: a node is refused, or does not answer.
        """
        await self._learn()
        usable = {node.node_id for node in self._terrain.usable}
        for node_id in node_ids:
            if node_id in self._drained:
                raise UnavailableError(f"node {node_id[:8]} has it and is drained; see `baton drain`")
            if node_id not in usable:
                raise UnavailableError(self._terrain.why_not(node_id))
        ground = self._seat(worker, node_ids)
        address = {node.node_id: node.address for node in ground.nodes}
        worker.one_of_nodes = len(address) > 1
        worker.started_as = self._get_plan().role_of(worker.worker_id, worker.role)
        return [self._place(worker, rank, ground) for rank in range(len(worker.ranks))]

    def _seat(self, worker: WorkerRecord, node_ids: Sequence[str]) -> Ground:
        """Gives its ranks cores; again where another model has taken some at the same time, the later name gives way.

        Returns: the ground as it found it.
        """
        for _ in range(MAX_SEATINGS):
            ground = self._ground(worker, without=self._sharing(worker))
            address = {node.node_id: node.address for node in ground.nodes}
            ranks = ground.ranks(worker.worker_id, worker.index, self._pool(worker), node_ids)
            worker.ranks = tuple(replace(rank, node=address[rank.node_id]) for rank in ranks)
            before = self._others
            if not before or self._beside is None:
                break
            self.tell()
            self._others = self._beside.others()
            if not any(
                self._others[name] != before.get(name) for name in self._others if name < self._beside.namespace
            ):
                break
        return ground

    def tell(self) -> None:
        """Other models what this one's workers hold."""
        if self._beside is not None:
            held = [(self._need(worker.role), rank) for worker in self._live() for rank in worker.ranks]
            seats = [Seat(node_id=rank.node_id, cores=rank.cores, resources=need.resources) for need, rank in held]
            self._beside.tell(Seats(num_ranks=self._get_plan().num_ranks, seats=tuple(seats)))

    def forget(self) -> None:
        """Nothing any more."""
        if self._beside is not None:
            self._beside.forget()

    def num_beside(self) -> int:
        """Ranks of other models, as of now."""
        return summed(self._beside.others().values()).num_ranks if self._beside is not None else 0

    def waits(self, role: Role, now_s: float) -> str:
        """What workers of a role wait for, in one line; empty: none does."""
        of_role = [worker for worker in self._workers() if worker.role is role and worker.phase is WorkerPhase.WAITING]
        waiting = [worker for worker in of_role if worker.refusal or now_s - worker.entered_s > SHOWN_AFTER_S]
        if not waiting:
            return ""
        return waits(
            role.value,
            self._need(role),
            num_waiting=len(waiting),
            num_wanted=self._get_plan().desired[role],
            nodes=self._terrain.usable,
            refused=next((worker.refusal for worker in waiting if worker.refusal), ""),
        )

    @property
    def refused(self) -> tuple[str, ...]:
        """The nodes where no worker may start, and why."""
        return tuple(f"node {node.address} is refused: {why}" for node, why in self._terrain.refused.values())

    async def _learn(self) -> None:
        await self._terrain.learn(self._get_plan().asked)
        if self._beside is not None:
            self._others = self._beside.others()

    def _sharing(self, worker: WorkerRecord) -> list[WorkerRecord]:
        """Whose cores do not count: those of the worker that it replaces, which it inherits, and of pairs' one half."""
        held: set[tuple[Role, int]] = {(worker.role, worker.index)}
        sharing = []
        for other in self._workers():
            slot = (other.role, other.index)
            if slot in held:
                sharing.append(other)
            elif other.phase in LIVE and other.cores:
                held.add(slot)
        return sharing

    @property
    def _drained(self) -> tuple[str, ...]:
        return self._get_plan().drained

    def _plan_of(self, worker: WorkerRecord) -> FleetPlan:
        return worker.plan or self._get_plan()

    def _pool(self, worker: WorkerRecord) -> AnyPool:
        return self._plan_of(worker).pool(worker.role)

    def _need(self, role: Role) -> Need:
        wanted = self._get_plan()
        num_beside = summed(self._others.values()).num_ranks
        return Need.of(wanted.pool(role), wanted.gpus(role, self._terrain.usable, num_beside))

    def _live(self) -> list[WorkerRecord]:
        return [worker for worker in self._workers() if worker.phase in LIVE]

    def _ground(self, worker: WorkerRecord, without: Collection[WorkerRecord] = ()) -> Ground:
        """As one worker finds it: it does not count itself, nor those `without`."""
        wanted, others = self._plan_of(worker), summed(self._others.values())
        return Ground(
            nodes=[node for node in self._terrain.usable if node.node_id not in self._drained],
            cores=self._terrain.cores,
            taken=[
                Taken(worker_id=other.worker_id, role=other.role.value, rank=rank)
                for other in self._live()
                if other is not worker and other not in without
                for rank in other.ranks
            ]
            + others.taken(),
            num_ranks=wanted.num_ranks + others.num_ranks,
            needs={role.value: self._need(role) for role in Role} | others.needs(),
            capped=self._terrain.capped,
        )

    def _place(self, worker: WorkerRecord, rank: int, ground: Ground) -> launch.RankPlace:
        mine, others = worker.ranks[rank], (*worker.ranks[:rank], *worker.ranks[rank + 1 :])
        node = next(node for node in ground.nodes if node.node_id == mine.node_id)
        spec = plan.worker_spec(
            self._plan_of(worker),
            f"{self._prefix}{worker.worker_id}",
            worker.role,
            cores=mine.cores,
            host=node.address,
            secret=self._secret,
            rank=rank,
            shares_device=worker.num_gpus < 1.0,
            pinned=mine.node_id not in ground.capped or self._pool(worker).cores is not None,
        )
        env = dict(thread_env(len(mine.cores), exclusive=ground.is_exclusive(mine, others)))
        env[FORMAT_VARIABLE] = self._get_plan().config.logging.format
        return launch.RankPlace(spec=spec, num_gpus=worker.num_gpus, env=env | dict(self._worker_env))
