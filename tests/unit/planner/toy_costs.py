"""A model whose costs and limits are known in the head, and a simulation that knows nothing but capacities."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.config.schema import EngineConfig
from cluster.contracts.latency import DraftModel, Parallelism, PromptChunk
from cluster.contracts.overheads import Overheads
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster, SimResult
from cluster.contracts.slo import SLO
from cluster.planner.costs.draft import DraftShape
from cluster.planner.costs.memory import Footprint
from cluster.planner.costs.transfer import Path
from cluster.planner.load.sampled import SampledWorkload
from cluster.planner.load.workload import mean_rate
from cluster.planner.search.placement import Site
from cluster.planner.search.trial import Question
from workers.spec import Role

SLOW_TTFT_S, FAST_TTFT_S = 10.0, 0.1


@dataclass(frozen=True)
class ToyLatency:
    """1 ms per prompt token and 2 ms per decode, divided by the tensor degree to the power of `gain`."""

    tensor: int = 1
    gain: float = 0.5
    pipeline_stages: int = 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        work_s = 0.001 * sum(chunk.num_tokens for chunk in prompts) + 0.002 * num_decodes
        return work_s / self.tensor**self.gain

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return num_steps * self.step_s((), num_decodes, num_context)


@dataclass(frozen=True, kw_only=True)
class ToyDraft:
    """Every round brings two tokens for the price of one."""

    target: ToyLatency

    def round_s(self, num_sequences: int, num_context: int) -> float:
        return self.target.step_s((), num_sequences, num_context)

    def tokens_per_round(self) -> float:
        return 2.0


@dataclass(frozen=True, kw_only=True)
class ToyCosts:
    device_bytes: int = 1_000_000
    weight_bytes: int = 100_000
    token_bytes: int = 10
    state_bytes: int = 0
    num_layers: int = 4
    num_kv_layers: int = 4
    max_model_len: int = 4096
    overheads: Overheads = field(default_factory=Overheads)
    gain: float = 0.5
    degrees: tuple[int, ...] = (1, 2)

    def allows(self, parallelism: Parallelism) -> bool:
        return parallelism.tensor in self.degrees and parallelism.sequence == 1

    def footprint(self, parallelism: Parallelism, engine: EngineConfig) -> Footprint:
        devices = parallelism.num_devices
        return Footprint(
            weight_bytes=self.weight_bytes // devices,
            activation_bytes=1000 + self.state_bytes * engine.max_sequences // devices,
            token_bytes=self.token_bytes / devices,
        )

    def latency(self, parallelism: Parallelism) -> ToyLatency:
        return ToyLatency(tensor=parallelism.tensor, gain=self.gain, pipeline_stages=parallelism.pipeline)

    def transfer(self, source: Parallelism, target: Parallelism, *, within_node: bool) -> Path:
        return Path(bandwidth=1e9)

    def draft(self, target: Parallelism, shape: DraftShape) -> DraftModel:
        return ToyDraft(target=self.latency(target))


@dataclass(frozen=True, kw_only=True)
class Capacities:
    """Stands in for `simulate`: a pool beyond its capacity misses its limit for all, below it for nobody."""

    prefill: float = 10.0  # requests/s of a worker of one device
    decode: float = 20.0
    mixed: float = 4.0

    def __call__(self, cluster: SimCluster, arrivals: Sequence[Arrival], *, seed: int = 0) -> SimResult:
        rate = mean_rate(arrivals)
        reads_alone = all(arrival.num_output_tokens == 1 for arrival in arrivals)
        limits = {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.MIXED: self.mixed}
        limits[Role.MIXED] = self.prefill if reads_alone else self.mixed
        keeps = {pool.role: rate / pool.num_workers <= limits[pool.role] + 1e-9 for pool in cluster.pools}
        reads_well = keeps.get(Role.PREFILL, True) and keeps.get(Role.MIXED, True)
        writes_well = keeps.get(Role.DECODE, True) and keeps.get(Role.MIXED, True)
        records = [
            RequestRecord(
                index=index,
                arrived_s=arrival.at_s,
                num_prompt_tokens=arrival.num_prompt_tokens,
                num_output_tokens=arrival.num_output_tokens,
                first_token_s=arrival.at_s + (FAST_TTFT_S if reads_well else SLOW_TTFT_S),
                finished_s=arrival.at_s + SLOW_TTFT_S + (1.0 if writes_well else 1000.0),
            )
            for index, arrival in enumerate(arrivals)
        ]
        return SimResult(records=records, end_s=arrivals[-1].at_s + 1.0, num_events=1, trace_hash="")


def question(**changes: Any) -> Question:
    """Prompts of 100 tokens and answers of 11, at 10 requests/s like a clock's beat, on one node of 8 devices."""
    rate = changes.pop("rate", 10.0)
    arrivals = [Arrival(at_s=index / rate, num_prompt_tokens=100, num_output_tokens=11) for index in range(500)]
    asked = Question(
        costs=ToyCosts(),
        site=Site(num_nodes=1, devices_per_node=8, node_bandwidth=1e9),
        workload=SampledWorkload(arrivals),
        slo=SLO(ttft_s=0.5, tpot_s=1.5, attainment=0.9),
        rate=rate,
        simulate=Capacities(),
        mean_prompt=100.0,
        mean_output=11.0,
        max_request_tokens=111,
    )
    return replace(asked, **changes)
