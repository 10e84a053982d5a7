"""Simulates a layout, or one phase of it apart, at a rate, and measures it against the SLO.

Requests that arrive before the first ones could have left see an emptier system than the later ones: they are served
and not counted. Where a whole plan would take too many requests to come to its steady state, a slice of it is
simulated: fewer workers in the same ratio, at the same load for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any, Protocol

import numpy as np

from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.latency import LatencyModel, PromptChunk
from cluster.contracts.simulation import Arrival, RequestRecord, SimCluster, SimPool, SimResult
from cluster.contracts.slo import SLO
from cluster.planner.costs.drafted import Drafted
from cluster.planner.search.placement import Costs, Layout, PoolPlan, Site, WorkerShape
from workers.memory_shares import with_slots
from workers.spec import Role

# Queues so long that the SLO, not a full queue, ends a trial.
UNLIMITED = RouterConfig(max_queue=1 << 20, max_running=1 << 20, request_timeout_s=86400.0)

MAX_UNEVEN = 1.03  # by how much a slice may load one pool more than the plan would
QUEUE_TIMES = 10  # a queue of prompts takes so many times the TTFT limit to show what it comes to
NUM_READ_AHEAD = 64  # prompts of the longest kind that may wait, read, for a decode worker that is tried apart


class Workload(Protocol):
    """Requests as the user expects them, any number of them at any rate."""

    def arrivals(self, *, rate: float, num_requests: int, seed: int) -> list[Arrival]: ...


class Simulate(Protocol):
    def __call__(self, cluster: SimCluster, arrivals: Sequence[Arrival], *, seed: int = 0) -> SimResult: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is simulated per trial.

    Attributes:
        periods: Length of a trial in times that a request stays at most (TTFT and all its tokens at the SLO).
    """

    min_requests: int = 400
    max_requests: int = 2000
    periods: float = 3.0


SCORING = Effort(min_requests=250, max_requests=1000, periods=2.0)  # of workers apart: they are only put in order
VERIFYING = Effort(min_requests=1000, max_requests=4500, periods=3.0)  # of the plan that is to be the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that a trial needs to know besides the layout. Picklable, if its parts are."""

    costs: Costs
    site: Site
    workload: Workload
    slo: SLO
    rate: float  # requests/s that the plan must serve
    simulate: Simulate
    mean_prompt: float
    mean_output: float
    max_request_tokens: int
    seed: int = 0
    effort: Effort = Effort()
    scoring: Effort = SCORING
    verifying: Effort = VERIFYING

    @property
    def stay_s(self) -> float:
        """How long a request of mean length may stay within the SLO."""
        return self.slo.ttft_s + self.mean_output * self.slo.tpot_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Attributes:
    rate: Requests/s of the whole layout.
    ttft_s, tpot_s: Of each counted request, in order of arrival; inf for one that failed.
    share: Of the layout that was simulated; 1: all of it.
    kv_bandwidth: KV bytes/s that the whole layout moved.
    """

    rate: float
    attainment: float
    ttft_attainment: float
    tpot_attainment: float
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    num_failed: int
    share: float = 1.0
    kv_bandwidth: float = 0.0

    @property
    def num_requests(self) -> int:
        return len(self.ttft_s)

    def ttft_percentile(self, percent: float) -> float:
        return _percentile(self.ttft_s, percent)

    def tpot_percentile(self, percent: float) -> float:
        return _percentile(self.tpot_s, percent)


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent, method="higher")) if values else float("nan")


def run_layout(question: Question, layout: Layout, rate: float) -> Outcome:
    """The layout at `rate`, or a slice of one of its replicas when a trial of it takes too many requests."""
    rate /= layout.num_replicas
    wanted = _num_requests(question, rate, question.stay_s)
    pools, share = layout.pools, 1.0
    if wanted > question.effort.max_requests:
        pools, share = _slice(layout.pools, question.effort.max_requests / wanted)
    cluster = _cluster(question, pools, layout.engine, within_node=layout.within_node or _is_one_node(question, layout))
    outcome = _run(question, cluster, rate * share, question.stay_s)
    whole = layout.num_replicas / share
    return replace(
        outcome,
        rate=outcome.rate * whole,
        kv_bandwidth=outcome.kv_bandwidth * whole,
        share=1 / whole,
    )


def run_prefill(question: Question, shape: WorkerShape, engine: EngineConfig, rate: float) -> Outcome:
    """One worker that only reads: every request ends with its first token."""
    pools = (_mixed(shape),)
    cluster = _cluster(question, pools, engine, within_node=True)
    return _run(question, cluster, rate, QUEUE_TIMES * question.slo.ttft_s, num_output_tokens=1)


def run_decode(question: Question, shape: WorkerShape, engine: EngineConfig, rate: float) -> Outcome:
    """One worker that only writes: prompts are read, and their KV arrives, in no time."""
    longest = question.max_request_tokens
    num_blocks = NUM_READ_AHEAD * -(-longest // engine.block_size)
    reader = SimPool(role=Role.PREFILL, num_workers=1, latency=_Instant(), num_blocks=num_blocks)
    cluster = SimCluster(
        pools=(reader, _sim_pool(question, PoolPlan(shape=shape, num_workers=1), engine)),
        engine=replace(engine, max_batched_tokens=max(longest, engine.max_sequences + 1)),
        router=replace(UNLIMITED, disaggregate_over_tokens=0),
        max_model_len=question.costs.max_model_len,
        token_bytes=question.costs.token_bytes,
        state_bytes=question.costs.state_bytes,
        receive_s=question.costs.overheads.receive_s,
    )
    return _run(question, cluster, rate, question.stay_s)


class _Instant:
    """A worker whose steps take no time worth counting."""

    pipeline_stages = 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        return 1e-9

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return num_steps * 1e-9


def _mixed(shape: WorkerShape) -> PoolPlan:
    return PoolPlan(shape=replace(shape, role=Role.MIXED), num_workers=1)


def _num_requests(question: Question, rate: float, stay_s: float) -> int:
    return max(question.effort.min_requests, round(question.effort.periods * stay_s * rate))


def _slice(pools: tuple[PoolPlan, ...], share: float) -> tuple[tuple[PoolPlan, ...], float]:
    """Fewer workers in the ratio of the pools, and the share of the rate that loads none of them less.

    The largest slice up to `share` that keeps the ratio; where whole workers are too coarse for that, the smallest
    one beyond it that does. All of it keeps it for sure.
    """
    smallest = min(pool.num_workers for pool in pools)
    most = max(int(smallest * share), 1)
    for num_kept in (*range(most, 0, -1), *range(most + 1, smallest + 1)):
        counts = [max(round(pool.num_workers * num_kept / smallest), 1) for pool in pools]
        loads = [count / pool.num_workers for count, pool in zip(counts, pools, strict=True)]
        if max(loads) <= MAX_UNEVEN * min(loads):
            break
    sliced = tuple(replace(pool, num_workers=count) for pool, count in zip(pools, counts, strict=True))
    return sliced, max(loads)


def _is_one_node(question: Question, layout: Layout) -> bool:
    """Also where it has no room: of one node nothing leaves."""
    return question.site.num_nodes == 1 or layout.num_devices <= question.site.devices_per_node


def _cluster(question: Question, pools: Sequence[PoolPlan], engine: EngineConfig, *, within_node: bool) -> SimCluster:
    transfer = None
    if len(pools) > 1:
        source, target = (pool.shape.parallelism for pool in pools)
        transfer = question.costs.transfer(source, target, within_node=within_node)
    overheads = question.costs.overheads
    return SimCluster(
        pools=tuple(_sim_pool(question, pool, engine) for pool in pools),
        engine=engine,
        router=UNLIMITED,
        max_model_len=question.costs.max_model_len,
        num_layers=max(question.costs.num_kv_layers, 1),
        token_bytes=question.costs.token_bytes,
        state_bytes=question.costs.state_bytes,
        transfer=transfer,
        ingress_s=overheads.ingress_s,
        handover_s=overheads.handover_s,
        receive_s=overheads.receive_s,
        contention=overheads.contention,
    )


def _sim_pool(question: Question, pool: PoolPlan, engine: EngineConfig) -> SimPool:
    shape, costs = pool.shape, question.costs
    latency: LatencyModel = costs.latency(shape.parallelism)
    if shape.draft is not None:
        latency = Drafted(latency, costs.draft(shape.parallelism, shape.draft))
    shares = with_slots(engine, shape.fit.num_blocks, token_nbytes=costs.token_bytes, state_nbytes=costs.state_bytes)
    return SimPool(
        role=pool.role,
        num_workers=pool.num_workers,
        latency=latency,
        num_blocks=shares.num_blocks,
        num_states=shares.num_states,
        state_spacing=shares.state_spacing,
    )


def _run(question: Question, cluster: SimCluster, rate: float, stay_s: float, **changes: Any) -> Outcome:
    """A trial of requests that stay for `stay_s`, `changes` made to each."""
    num_requests = min(_num_requests(question, rate, stay_s), question.effort.max_requests)
    arrivals = question.workload.arrivals(rate=rate, num_requests=num_requests, seed=question.seed)
    if changes:
        arrivals = [replace(arrival, **changes) for arrival in arrivals]
    result = question.simulate(without_idle_blocks(cluster, arrivals), arrivals, seed=question.seed)
    span_s = arrivals[-1].at_s - arrivals[0].at_s
    warm_s = arrivals[0].at_s + min(stay_s, 0.3 * span_s)
    counted = [record for record in result.records if record.arrived_s >= warm_s] or list(result.records)
    return measured(counted, question.slo, rate=rate, kv_bandwidth=result.bytes_sent / max(result.end_s, 1e-9))


def without_idle_blocks(cluster: SimCluster, arrivals: Sequence[Arrival]) -> SimCluster:
    """Workers with no more memory than the trial could ever fill; the answer is the same.

    Tiny models leave a device room for millions of blocks, which a simulation would make, and check, one by one.
    """
    size = cluster.engine.block_size
    most = sum(-(-(one.num_prompt_tokens + one.num_output_tokens) // size) + 1 for one in arrivals)
    pools = tuple(
        replace(
            pool,
            num_blocks=min(pool.num_blocks, most),
            num_idle_blocks=max(pool.num_blocks - most, 0),
            num_states=min(pool.num_states, most + cluster.engine.max_sequences),
        )
        for pool in cluster.pools
    )
    return replace(cluster, pools=pools)


def measured(records: Sequence[RequestRecord], slo: SLO, *, rate: float, kv_bandwidth: float = 0.0) -> Outcome:
    """Requests that failed miss both limits."""
    ttft_s = tuple(inf if record.error or isnan(record.ttft_s) else record.ttft_s for record in records)
    tpot_s = tuple(inf if record.error or isnan(record.tpot_s) else record.tpot_s for record in records)
    in_ttft = np.asarray(ttft_s) <= slo.ttft_s
    in_tpot = np.asarray(tpot_s) <= slo.tpot_s
    return Outcome(
        rate=rate,
        attainment=float(np.mean(in_ttft & in_tpot)),
        ttft_attainment=float(np.mean(in_ttft)),
        tpot_attainment=float(np.mean(in_tpot)),
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        num_failed=sum(bool(record.error) for record in records),
        kv_bandwidth=kv_bandwidth,
    )
