"""What a simulation is asked, and what it answers. `cluster.simulator.world.simulate` does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cluster.config.schema import EngineConfig, HealthConfig, KVConfig, RouterConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import LatencyModel, TransferModel
from cluster.contracts.overheads import ALONE, Contention
from cluster.contracts.tuning import Tuning
from workers.engine.drafting import Drafter
from workers.engine.scheduler import ScheduledChunk
from workers.engine.stats import EngineStats
from workers.spec import Role


class SimDrafter(Drafter, Protocol):
    """Proposes tokens of id 0, as many as it guesses."""

    def num_accepted(self, chunk: ScheduledChunk) -> int:
        """Of the chunk's draft tokens; called once, when its step is done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDrafts:
    """Guesses of how the sequences of a worker go on, of which it verifies as much as production would.

    Attributes:
        max_tokens: Drafted at most, of each sequence in a step.
        chances: Of being right.
        latency: Of the draft model, each pass of which gives all sequences one more token; None: guesses cost nothing.
        is_remote: Draft workers guess while the step before is computed; else the step waits.
        num_sharing: Workers that decode for each draft worker.
    """

    max_tokens: int
    chances: DraftChances
    latency: LatencyModel | None = None
    is_remote: bool = False
    num_sharing: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelining:
    """How workers of several pipeline stages go about it; those of one pass it over.

    A step passes the stages, which share its time evenly but for what the host takes afterwards, for one step at a
    time: scheduling, sampling, messages.

    Attributes:
        host_step_s: Of every step's time, on the host.
        host_sequence_s: The same for each sequence in the step.
        join: The batch of decodes that a new one joins: the smallest, or one of those that there are, by lot.
        open_after_s: By lot, how long the number of batches stays as it is before another one opens.
        in_turns: The engine looks for work when it has begun a step and when the oldest one comes back, and at no other
            time; else whenever the first stage is free.
    """

    host_step_s: float = 0.0
    host_sequence_s: float = 0.0
    join: Literal["smallest", "lot"] = "smallest"
    open_after_s: float = 0.0
    in_turns: bool = False


EVENLY = Pipelining()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimPool:
    """Workers of one role; all alike."""

    role: Role
    num_workers: int
    latency: LatencyModel
    num_blocks: int  # KV blocks of each
    num_idle_blocks: int = 0  # beside those: told of in load reports, and never needed
    num_states: int = 0  # slots of each for the states of sequences; 0: the model keeps none
    state_spacing: int | None = None  # tokens between the states that the prefix cache keeps; None: it keeps none
    receive_token_s: float = 0.0  # for each token of KV that comes over a link, the worker's steps stand still
    drafts: SimDrafts | None = None  # None, as the next: every step gives each sequence one token
    drafter: SimDrafter | None = None  # whose guesses are all verified
    pipelining: Pipelining = EVENLY


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCluster:
    """`engine.memory_bytes` is not read: `SimPool` says what it holds. One ingress replica."""

    pools: Sequence[SimPool]
    engine: EngineConfig = field(default_factory=EngineConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    kv: KVConfig = field(default_factory=KVConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    max_model_len: int = 1 << 20
    num_layers: int = 1  # that hold KV: the granularity of pushing
    token_bytes: int = 0  # KV of one token, all layers
    state_bytes: int = 0  # of one sequence, whatever its length: goes over with the last of its KV
    transfer: TransferModel | None = None  # None: transfers take no time
    ingress_s: float = 0.0  # from arrival to the worker, and again from the worker to the client
    handover_s: float = 0.0  # that a step takes longer whose prompts go to another worker
    receive_s: float = 0.0  # that a decode worker's steps stand still for each prompt that comes to it
    contention: Contention = ALONE
    report_interval_s: float = 0.5  # between a worker's load reports
    start_s: float = 5.0  # what a worker takes to start
    detect_s: float = 0.0  # from a worker's death to the controller's and ingress's knowledge


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a workload."""

    at_s: float
    num_prompt_tokens: int
    num_output_tokens: int  # exactly so many are written
    block_hashes: tuple[int, ...] = ()  # of the prompt's full blocks of `engine.block_size`; empty: shares with nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong; kinds and text form are those of `cluster.simulator.faults`."""

    kind: str
    at_s: float
    target: str = ""  # a worker id; empty: any that the kind fits, by lot
    duration_s: float = 0.0
    factor: float = 1.0


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request's life, in seconds of the simulation's clock; nan where it never came to that."""

    index: int  # in the workload
    arrived_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    first_token_s: float = float("nan")  # at the client
    finished_s: float = float("nan")
    num_cached_tokens: int = 0
    num_attempts: int = 1
    prefill_id: str = ""  # of the last attempt; empty: the decode worker read the prompt
    decode_id: str = ""
    error: str = ""  # code of a BatonError; empty: finished

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.arrived_s

    @property
    def tpot_s(self) -> float:
        """Mean gap after the first token; 0 for one token."""
        return (self.finished_s - self.first_token_s) / max(self.num_output_tokens - 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineSpan:
    """For the timeline: what a worker, or a request, did from `start_s` to `end_s`."""

    lane: str  # worker id, or "request 17"
    kind: str  # prefill | decode | mixed | transfer | queued | down | starting
    start_s: float
    end_s: float
    num_sequences: int = 0


class SteeredFleet(Protocol):
    """A simulated fleet in the hands of a pilot."""

    @property
    def now_s(self) -> float: ...

    @property
    def records(self) -> Sequence[RequestRecord]:
        """Of all that have arrived, in order. How long an answer will be is not the pilot's to know before its end."""
        ...

    @property
    def roles(self) -> Mapping[str, Role]:
        """By worker id; of those that are wanted."""
        ...

    @property
    def is_settled(self) -> bool:
        """All that are wanted serve, and nobody else is left."""
        ...

    @property
    def tuning(self) -> Tuning: ...

    def stats(self) -> Mapping[str, EngineStats]:
        """By worker id; of those that are up."""
        ...

    def set_role(self, worker_id: str, role: Role) -> bool:
        """False, and nothing changes, where the controller would refuse."""
        ...

    def set_count(self, role: Role, count: int) -> None:
        """Workers of the pool of `role`."""
        ...

    def tune(self, tuning: Tuning) -> None: ...


class SimPilot(Protocol):
    @property
    def interval_s(self) -> float: ...

    def look(self, fleet: SteeredFleet) -> None:
        """Every interval, from the first one's end on."""
        ...


@dataclass(slots=True, kw_only=True)
class SimResult:
    records: list[RequestRecord]
    end_s: float  # of the last event
    num_events: int
    trace_hash: str  # of every event in order: equal for equal seed, cluster, workload and faults
    busy_s: dict[str, float] = field(default_factory=dict)  # worker id -> s in steps
    peak_blocks: dict[str, int] = field(default_factory=dict)  # worker id -> blocks in use at most
    bytes_sent: float = 0.0  # KV over links
    num_preemptions: int = 0
    worker_s: float = 0.0  # that workers had their places, all together
    spans: list[TimelineSpan] = field(default_factory=list)  # only when asked for
