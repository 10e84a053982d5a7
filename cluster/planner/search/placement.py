"""What a plan is made of: shapes of workers, pools of them, and how they lie on nodes.

Leaves to `search` which of them is best, to `memory` whether a worker fits, to `Costs` what it takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf
from typing import Protocol

from cluster.config.schema import EngineConfig
from cluster.contracts.latency import DraftModel, LatencyModel, Parallelism, TransferModel
from cluster.contracts.overheads import Overheads
from cluster.planner.costs.draft import DraftShape
from cluster.planner.costs.memory import Footprint, MemoryFit
from workers.spec import Role

MAX_PIPELINE = 8
MAX_LINK_LOAD = 0.5  # of the bandwidth between nodes that KV may need on average: prompts come in bursts


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The machines: `num_nodes` alike, with `devices_per_node` devices each.

    `node_bandwidth`: bytes/s that one node sends to the others, all its links together.
    """

    num_nodes: int
    devices_per_node: int
    node_bandwidth: float
    device_name: str = "device"
    device_price_per_h: float | None = None  # US$; None: not known

    @property
    def num_devices(self) -> int:
        return self.num_nodes * self.devices_per_node

    def named(self, num_devices: int) -> str:
        """So many of them, in words: 3 h200, 1 worker, 3 workers."""
        return f"{num_devices} {self.device_name}{'s' if num_devices != 1 and self.device_name.isalpha() else ''}"


class Costs(Protocol):
    """One model on one kind of device. Bytes of KV are those of all ranks together."""

    @property
    def device_bytes(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def num_kv_layers(self) -> int: ...

    @property
    def token_bytes(self) -> int: ...

    @property
    def state_bytes(self) -> int:
        """Of one sequence, whatever its length."""
        ...

    @property
    def max_model_len(self) -> int: ...

    @property
    def overheads(self) -> Overheads: ...

    def allows(self, parallelism: Parallelism) -> bool:
        """Whether the model divides by these degrees, and their costs are known."""
        ...

    def footprint(self, parallelism: Parallelism, engine: EngineConfig) -> Footprint: ...

    def latency(self, parallelism: Parallelism) -> LatencyModel: ...

    def transfer(self, source: Parallelism, target: Parallelism, *, within_node: bool) -> TransferModel: ...

    def draft(self, target: Parallelism, shape: DraftShape) -> DraftModel: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShape:
    """One worker, whatever its role. `bound`: requests/s that its saturated steps come to, by closed forms."""

    role: Role
    parallelism: Parallelism
    fit: MemoryFit
    draft: DraftShape | None = None
    bound: float = inf

    @property
    def num_devices(self) -> int:
        return self.parallelism.num_devices + (self.draft.layer_parallel if self.draft else 0)

    @property
    def segments(self) -> list[int]:
        """Device groups that each need a node of their own or share one, but never span two: pipeline stages."""
        stage = self.parallelism.num_devices // self.parallelism.pipeline
        return [stage] * self.parallelism.pipeline + ([self.draft.layer_parallel] if self.draft else [])

    def __str__(self) -> str:
        parts = (*(() if self.parallelism.num_devices == 1 else (self.parallelism,)), self.draft)
        return " + ".join(str(part) for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    shape: WorkerShape
    num_workers: int

    @property
    def role(self) -> Role:
        return self.shape.role

    @property
    def num_devices(self) -> int:
        return self.num_workers * self.shape.num_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Pools of one cluster, and how many such clusters there are.

    Attributes:
        num_replicas: More than one where KV must stay inside a node: each is a cluster of its own, with an equal
            share of the requests.
        within_node: KV never leaves a node.
    """

    pools: tuple[PoolPlan, ...]
    engine: EngineConfig
    num_replicas: int = 1
    within_node: bool = False

    @property
    def is_disaggregated(self) -> bool:
        return len(self.pools) > 1

    @property
    def num_devices(self) -> int:
        return self.num_replicas * sum(pool.num_devices for pool in self.pools)

    @property
    def bound(self) -> float:
        """Requests/s that the scarcest pool comes to."""
        return self.num_replicas * min(pool.num_workers * pool.shape.bound for pool in self.pools)

    def pool(self, role: Role) -> PoolPlan | None:
        return next((pool for pool in self.pools if pool.role is role), None)

    @property
    def draft(self) -> DraftShape | None:
        """What drafts for each worker that decodes."""
        return next((pool.shape.draft for pool in self.pools if pool.shape.draft), None)

    @property
    def missing_features(self) -> list[str]:
        """What the runtime of this version cannot start, in words; empty: `baton up` takes the plan."""
        missing = []
        for pool in self.pools:
            degrees = pool.shape.parallelism
            if not degrees.runs_as(pool.role):
                missing.append(f"{pool.role} workers of {degrees.num_devices} devices ({degrees})")
        return missing

    def __str__(self) -> str:
        pools = " + ".join(f"{pool.num_workers} {pool.role} {pool.shape}".rstrip() for pool in self.pools)
        return f"{self.num_replicas} x ({pools})" if self.num_replicas > 1 else pools


def parallelisms(
    site: Site, costs: Costs, *, allow_pipeline: bool, allow_sequence: bool, runnable_as: Role | None
) -> Iterator[Parallelism]:
    """Every degree that the model allows; a pipeline's stage never spans nodes.

    Args:
        runnable_as: Only those of which this version starts workers of that role; None: all.
    """
    pipelines = range(1, min(MAX_PIPELINE, site.num_devices) + 1) if allow_pipeline else (1,)
    for pipeline in pipelines:
        if costs.num_layers % pipeline:
            continue
        for tensor in range(1, site.devices_per_node + 1):
            for sequence in _powers(site.devices_per_node // tensor) if allow_sequence else (1,):
                degrees = Parallelism(tensor=tensor, pipeline=pipeline, sequence=sequence)
                is_runnable = runnable_as is None or degrees.runs_as(runnable_as)
                if degrees.num_devices <= site.num_devices and is_runnable and costs.allows(degrees):
                    yield degrees


def _powers(limit: int) -> list[int]:
    return [1 << exponent for exponent in range(limit.bit_length()) if 1 << exponent <= limit]


def num_workers(rate: float, goodput: float) -> int:
    """Workers of which each serves `goodput`, for `rate`: DistServe's n = ceil(R / goodput)."""
    return max(ceil(rate / goodput - 1e-9), 1)


def nodes_needed(layout: Layout, devices_per_node: int) -> int:
    """Nodes that hold every segment whole, first fit, largest first."""
    groups = [size for pool in layout.pools for _ in range(pool.num_workers) for size in pool.shape.segments]
    free: list[int] = []
    for size in sorted(groups * layout.num_replicas, reverse=True):
        for node, left in enumerate(free):
            if left >= size:
                free[node] -= size
                break
        else:
            free.append(devices_per_node - size)
    return len(free)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVDemand:
    """Bytes/s of KV at a rate, over the busiest node's links, against what these carry."""

    needed: float
    available: float

    @property
    def is_affordable(self) -> bool:
        return self.needed <= MAX_LINK_LOAD * self.available


def kv_demand(
    layout: Layout, *, rate: float, mean_prompt: float, token_bytes: int, site: Site, state_bytes: int = 0
) -> KVDemand:
    """What one node sends (all its devices prefill) or receives (all decode) at `rate`, if every byte leaves its node.

    Nothing, where KV stays inside nodes or one node holds the plan.
    """
    if not layout.is_disaggregated or layout.within_node or layout.num_devices <= site.devices_per_node:
        return KVDemand(needed=0.0, available=site.node_bandwidth)
    total = rate / layout.num_replicas * (mean_prompt * token_bytes + state_bytes)
    share = max(min(site.devices_per_node / pool.num_devices, 1.0) for pool in layout.pools)
    return KVDemand(needed=total * share, available=site.node_bandwidth)
