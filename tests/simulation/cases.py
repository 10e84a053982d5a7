"""Random clusters, workloads and faults: a case is a function of its seed alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from cluster.config.schema import EngineConfig, HealthConfig, KVConfig, RouterConfig
from cluster.contracts.latency import PromptChunk
from cluster.contracts.simulation import Arrival, Fault, Pipelining, SimCluster, SimPool
from cluster.simulator.faults import KINDS
from workers.spec import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A step: a constant, and shares for its prompt tokens, its decodes and what they read."""

    base_s: float = 0.002
    prompt_token_s: float = 1e-4
    decode_s: float = 2e-4
    context_token_s: float = 1e-6
    pipeline_stages: int = 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        num_prompt = sum(chunk.num_tokens for chunk in prompts)
        work_s = num_prompt * self.prompt_token_s + num_decodes * self.decode_s
        return self.base_s + work_s + num_context * self.context_token_s

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        first_s = self.step_s((), num_decodes, num_context)
        growth_s = num_decodes * self.context_token_s
        return num_steps * first_s + growth_s * num_steps * (num_steps - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    latency_s: float
    bytes_per_s: float

    def transfer_s(self, num_bytes: int) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    cluster: SimCluster
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]


def make_case(seed: int) -> Case:
    rng = Random(seed)
    block_size = rng.choice([4, 8, 16])
    arrivals = _arrivals(rng, block_size)
    cluster = _cluster(rng, block_size, arrivals)
    return Case(cluster=_with_states(cluster, Random(f"states {seed}")), arrivals=arrivals, faults=())


def with_faults(seed: int) -> Case:
    """The case of a seed, with up to four things that go wrong while it runs."""
    case = make_case(seed)
    rng = Random(~seed)
    roles = [pool.role for pool in case.cluster.pools]
    names = [f"{pool.role}-{index}" for pool in case.cluster.pools for index in range(pool.num_workers)]
    kinds = [kind for kind, rules in KINDS.items() if set(rules.roles) & set(roles) and rules.becomes is None]
    last_s = max(arrival.at_s for arrival in case.arrivals) + 0.5
    faults = [_fault(rng, rng.choice(kinds), names, last_s) for _ in range(rng.randint(0, 4))]
    faults += _role_changes(Random(f"roles {seed}"), names, last_s)
    return Case(cluster=case.cluster, arrivals=case.arrivals, faults=tuple(faults))


def _role_changes(rng: Random, names: Sequence[str], last_s: float) -> list[Fault]:
    kinds = [kind for kind, rules in KINDS.items() if rules.becomes is not None]
    num_changes = rng.choice([0, 1, 2, 5])
    return [
        Fault(kind=rng.choice(kinds), at_s=rng.uniform(0.0, last_s), target=rng.choice(["", *names]))
        for _ in range(num_changes)
    ]


def _fault(rng: Random, kind: str, names: Sequence[str], last_s: float) -> Fault:
    rules = KINDS[kind]
    low, high = rules.factor or (0.0, 0.0)
    factor = rng.uniform(low + 0.01, min(high, low + 5.0)) if rules.factor else 1.0
    duration_s = rng.choice([0.05, 0.5, 3.0]) if rules.needs_duration else 0.0
    if rules.takes_duration:
        duration_s = rng.choice([0.0, 0.0, 1.0])
    fitting = [name for name in names if Role(name.split("-")[0]) in rules.roles]
    return Fault(
        kind=kind,
        at_s=rng.choice([rng.uniform(0.0, last_s), 0.0]),
        target=rng.choice(["", *fitting]),
        duration_s=duration_s,
        factor=factor,
    )


def _arrivals(rng: Random, block_size: int) -> tuple[Arrival, ...]:
    """Some prompts begin alike; some come at the same instant."""
    gap_s = rng.choice([0.0005, 0.005, 0.05])
    max_prompt, max_output = rng.choice([(8, 4), (60, 30), (300, 12), (20, 90)])
    num_groups = rng.randint(1, 4)
    at_s = 0.0
    arrivals = []
    for index in range(rng.randint(1, 40)):
        at_s += rng.choice([0.0, rng.expovariate(1.0 / gap_s)])
        num_prompt = rng.randint(1, max_prompt)
        arrivals.append(
            Arrival(
                at_s=at_s,
                num_prompt_tokens=num_prompt,
                num_output_tokens=rng.randint(1, max_output),
                block_hashes=_block_hashes(rng, num_prompt // block_size, rng.randrange(num_groups), index),
            )
        )
    return tuple(arrivals)


def _block_hashes(rng: Random, num_blocks: int, group: int, request: int) -> tuple[int, ...]:
    """Leading blocks are the group's, the rest the request's own; or nothing is said of them."""
    if rng.random() < 0.3:
        return ()
    num_shared = rng.randint(0, num_blocks)
    shared = [1_000_000 * (group + 1) + number for number in range(num_shared)]
    return tuple(shared + [1_000_000_000 * (request + 1) + number for number in range(num_blocks - num_shared)])


def _cluster(rng: Random, block_size: int, arrivals: Sequence[Arrival]) -> SimCluster:
    longest = max(arrival.num_prompt_tokens + arrival.num_output_tokens for arrival in arrivals)
    least = math.ceil(longest / block_size) + 1
    max_sequences = rng.choice([1, 2, 4, 16])
    return SimCluster(
        pools=_pools(rng, least),
        engine=EngineConfig(
            block_size=block_size,
            max_batched_tokens=max_sequences + rng.choice([1, 8, 64, 512]),
            max_sequences=max_sequences,
            prefix_cache=rng.random() < 0.7,
            chunked_prefill=rng.random() < 0.8,
        ),
        router=RouterConfig(
            max_queue=rng.choice([0, 3, 256]),
            max_running=rng.choice([2, 8, 1024]),
            disaggregate_over_tokens=rng.choice([0, 16, 64]),
            max_retries=rng.randint(0, 3),
            request_timeout_s=rng.choice([0.3, 5.0, 600.0]),
        ),
        kv=KVConfig(
            lease_s=rng.choice([0.1, 1.0, 30.0]),
            max_pending=rng.choice([1, 4, 256]),
            push=rng.choice(["layer", "bulk"]),
        ),
        health=HealthConfig(
            step_timeout_s=rng.choice([0.2, 1.0, 30.0]),
            start_timeout_s=rng.choice([1.0, 60.0]),
            drain_timeout_s=rng.choice([0.05, 30.0]),
        ),
        num_layers=rng.choice([1, 4, 32]),
        token_bytes=1000,
        state_bytes=rng.choice([0, 0, 5000]),
        transfer=rng.choice([None, Path(latency_s=1e-4, bytes_per_s=1e9), Path(latency_s=0.01, bytes_per_s=1e6)]),
        ingress_s=rng.choice([0.0, 0.001]),
        report_interval_s=rng.choice([0.05, 0.5]),
        start_s=rng.choice([0.05, 0.5]),
        detect_s=rng.choice([0.0, 0.02, 0.2]),
    )


def _with_states(cluster: SimCluster, rng: Random) -> SimCluster:
    """Where the model keeps states: from hardly a slot beside those of running sequences to plenty."""
    if not cluster.state_bytes:
        return cluster
    engine = cluster.engine
    spacing = engine.block_size * rng.choice([1, 2, 5]) if engine.prefix_cache else None
    num_states = engine.max_sequences + rng.choice([0, 1, 20])
    pools = [replace(pool, num_states=num_states, state_spacing=spacing) for pool in cluster.pools]
    return replace(cluster, pools=pools)


def _pools(rng: Random, least: int) -> tuple[SimPool, ...]:
    """One mixed pool, or x prefill and y decode workers; from hardly any memory to plenty."""
    roles = rng.choice([(Role.MIXED,), (Role.PREFILL, Role.DECODE), (Role.PREFILL, Role.DECODE)])
    return tuple(
        SimPool(
            role=role,
            num_workers=rng.randint(1, 3),
            latency=Linear(pipeline_stages=rng.choice([1, 1, 1, 2, 3])),
            num_blocks=math.ceil(least * rng.choice([1.0, 1.5, 3.0, 20.0])),
            receive_token_s=rng.choice([0.0, 1e-5]),
            pipelining=_pipelining(rng),
        )
        for role in roles
    )


def _pipelining(rng: Random) -> Pipelining:
    return Pipelining(
        host_step_s=rng.choice([0.0, 1e-4, 1.0]),
        host_sequence_s=rng.choice([0.0, 1e-5]),
        join=rng.choice(["smallest", "lot"]),
        open_after_s=rng.choice([0.0, 0.3]),
        in_turns=rng.choice([False, True]),
    )
