"""What the controller tells of itself: `baton status`, and `baton up` while it waits."""

from dataclasses import dataclass, replace

from cluster.fleet.tick import WorkerPhase
from cluster.planner.online.decision import NO_AUTOPILOT, AutopilotStatus
from workers.spec import SERVING_ROLES, Role


def role_serves(role: str) -> bool:
    """Whether such workers take requests; others only make answers faster."""
    return Role(role) in SERVING_ROLES


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """One process of a worker, and where it is."""

    node_id: str = ""
    node: str = ""  # its address; empty until the rank has its place
    pid: int = 0
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """Counts are of the worker's last report; 0 before the first."""

    worker_id: str
    incarnation: str
    role: str
    phase: WorkerPhase
    phase_s: float  # for so long in this phase
    address: str
    node_id: str  # of the leader, as the next
    pid: int
    cores: tuple[int, ...]  # of all ranks
    error: str  # why the slot's last worker failed; empty: it did not
    error_is_final: bool  # a wrong config: another start cannot help
    num_failures: int  # of the slot, without a minute's service in between
    model: str = ""  # entry of the config's `models`; empty: there are none
    loaded_bytes: int = 0  # while it starts: of its weights those that are in place, all ranks together
    weights_bytes: int = 0  # 0: not known, or it does not start
    load_bytes_per_s: float = 0.0
    ranks: tuple[RankStatus, ...] = ()
    num_blocks: int = 0
    num_free_blocks: int = 0
    num_quarantined_blocks: int = 0
    num_states: int = 0
    num_free_states: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_preemptions: int = 0
    num_transfers: int = 0
    num_failed_transfers: int = 0
    kv_bytes_sent: int = 0
    kv_bytes_received: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    since_progress_s: float = 0.0
    drafted_by_place: tuple[int, ...] = ()  # draft tokens verified, of the first place of a draft, the second, ...
    accepted_by_place: tuple[int, ...] = ()
    drafts_per_decode: float = 0.0
    drafting_s: float = 0.0
    verifying_s: float = 0.0
    drafters: tuple[str, ...] = ()  # who may draft for what it decodes
    metrics_address: str = ""  # host:port of its own /metrics
    attention: str = ""  # how its GPU attends, as was found at its start; empty: on a CPU
    num_draft_peers: int = 0  # draft workers that it is joined with; of a draft worker, those that decode
    num_guess_hits: int = 0  # of draft workers: guesses that were there in time; see worker.proto, as the next
    num_guess_misses: int = 0
    num_draft_waits: int = 0
    draft_wait_s: float = 0.0
    draft_workers_rest: bool = False  # they are told nothing now: steps are better off without

    @property
    def guess_share(self) -> float | None:
        """Of guesses that were asked for, those that were there; None: nobody asked."""
        num_asked = self.num_guess_hits + self.num_guess_misses
        return self.num_guess_hits / num_asked if num_asked else None

    @property
    def serves(self) -> bool:
        return role_serves(self.role)

    @property
    def loading(self) -> str:
        """How far it is with its weights, and what comes after them; empty: it does not load any now."""
        if not self.weights_bytes:
            return ""
        if self.loaded_bytes >= self.weights_bytes:
            return f"{self.worker_id} has its weights, {self.weights_bytes / 1e9:.1f} GB, and warms up"
        share = 100 * self.loaded_bytes // self.weights_bytes
        speed = f", {self.load_bytes_per_s / 1e9:.1f} GB/s" if self.load_bytes_per_s else ""
        return f"loading {self.worker_id} {share} % of {self.weights_bytes / 1e9:.1f} GB{speed}"

    @property
    def failure(self) -> str:
        """How often its slot's worker failed, and why the last time; of one that did."""
        if self.num_failures <= 1:
            return f"failed once: {self.error}"
        return f"failed {self.num_failures} times without a minute's service in between, the last time: {self.error}"


COUNTS = (
    "num_blocks",
    "num_free_blocks",
    "num_quarantined_blocks",
    "num_states",
    "num_free_states",
    "num_running",
    "num_waiting",
    "num_preemptions",
    "num_transfers",
    "num_failed_transfers",
    "kv_bytes_sent",
    "kv_bytes_received",
    "num_prompt_tokens",
    "num_output_tokens",
    "num_prefix_hit_tokens",
    "since_progress_s",
    "drafts_per_decode",
    "drafting_s",
    "verifying_s",
    "num_draft_peers",
    "num_guess_hits",
    "num_guess_misses",
    "num_draft_waits",
    "draft_wait_s",
    "draft_workers_rest",
    "metrics_address",
    "attention",
)
LISTS = ("drafted_by_place", "accepted_by_place", "drafters")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    role: str
    num_desired: int
    num_ready: int
    waits: str = ""  # what its workers wait for that have no places on nodes; empty: none waits
    model: str = ""  # as of a worker

    @property
    def name(self) -> str:
        return f"{self.model}.{self.role}" if self.model else self.role

    @property
    def serves(self) -> bool:
        return role_serves(self.role)

    @property
    def is_whole(self) -> bool:
        """While workers are replaced there may be more than are wanted."""
        return self.num_ready >= self.num_desired


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatus:
    """Of a change that is under way, or halted."""

    why: str
    num_replaced: int  # workers that are as wanted, of so many
    num_wanted: int
    halted: str = ""  # why nothing more is replaced; empty: it goes on
    holds_old: bool = False  # the old workers have another model, and serve until the ingress has turned to the new
    may_switch: bool = False  # it may turn: all new workers are there


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """Of one entry of a config's `models`."""

    entry: str
    served_name: str
    model: str  # as its config names it
    weight: float  # of now
    file_weight: float  # as the config that was applied says
    share: float  # of its served name's requests, 0 to 1
    ready: bool
    leaving: bool  # it takes no new requests, and ends when those that run have ended
    num_open: int  # calls that ingress replicas have open
    error: str = ""  # why nothing is known of its workers; empty: they are known
    autopilot: AutopilotStatus = NO_AUTOPILOT


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    ready: bool  # every pool whose workers take requests has all that it wants
    config: str  # YAML; empty: nothing was applied
    model_path: str
    num_ingress_replicas: int  # that asked for the table of late
    pools: tuple[PoolStatus, ...]
    workers: tuple[WorkerStatus, ...]
    refused: tuple[str, ...] = ()  # nodes where no worker may start, and why
    models: tuple[ModelStatus, ...] = ()  # empty: a config without `models`
    rollout: RolloutStatus | None = None
    drained: tuple[str, ...] = ()  # ids of nodes that are to be empty
    autopilot: AutopilotStatus = NO_AUTOPILOT

    def staying(self) -> "FleetStatus":
        """Without the models that are about to end."""
        leaving = {model.entry for model in self.models if model.leaving}
        if not leaving:
            return self
        return replace(
            self,
            pools=tuple(pool for pool in self.pools if pool.model not in leaving),
            workers=tuple(worker for worker in self.workers if worker.model not in leaving),
        )

    @property
    def answers(self) -> bool:
        """Whether each pool that takes requests has a worker, and nothing but places on nodes is missing."""
        serving = [pool for pool in self.pools if pool.serves]
        waiting = sum(worker.phase is WorkerPhase.WAITING for worker in self.workers if worker.serves)
        missing = sum(pool.num_desired - pool.num_ready for pool in serving)
        return bool(serving) and all(pool.num_ready for pool in serving) and missing == waiting
