"""The simulated cluster that a config describes: the same YAML as `baton up`, with latency models for its workers."""

from collections.abc import Callable
from dataclasses import dataclass

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig, PoolConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import LatencyModel, Parallelism, TransferModel
from cluster.contracts.overheads import Overheads
from cluster.contracts.simulation import SimCluster, SimDrafts, SimPool
from workers.memory_shares import MemoryShares, share_memory
from workers.spec import SERVING_ROLES, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """What a worker's blocks hold of the model."""

    token_bytes: int  # of one token, all layers
    state_bytes: int = 0  # of one sequence, beside the blocks
    num_layers: int
    max_positions: int  # tokens up to which the model's positions are defined


def sim_cluster(
    config: BatonConfig,
    *,
    latency: Callable[[Parallelism], LatencyModel],
    transfer: TransferModel | None,
    shape: KVShape,
    overheads: Overheads,
    drafts: SimDrafts | None = None,
) -> SimCluster:
    """
    Args:
        latency: Of a worker of such degrees.
        drafts: Of workers while they decode; None: nothing is drafted.
        transfer: None: hand-overs take no time.
    Raises:
        ConfigError: `engine.memory` holds less than one sequence of `engine.max_model_len`, as a worker would say.
    """
    shares = memory_shares(config, shape)
    pools = tuple(
        SimPool(
            role=role,
            num_workers=pool_of(config, role).workers,
            latency=latency(degrees_of(pool_of(config, role))),
            num_blocks=shares.num_blocks,
            num_states=shares.num_states,
            state_spacing=shares.state_spacing,
            drafts=drafts,
        )
        for role in SERVING_ROLES
        if pool_of(config, role).workers
    )
    return SimCluster(
        pools=pools,
        engine=config.engine,
        router=config.router,
        kv=config.kv,
        health=config.health,
        max_model_len=max_model_len(config, shape),
        num_layers=shape.num_layers,
        token_bytes=shape.token_bytes,
        state_bytes=shape.state_bytes,
        transfer=transfer,
        ingress_s=overheads.ingress_s,
        handover_s=overheads.handover_s,
        receive_s=overheads.receive_s,
        start_s=overheads.start_s,
        contention=overheads.contention,
    )


def drafts_of(config: BatonConfig, chances: DraftChances, latency: LatencyModel | None) -> SimDrafts:
    """As the config's speculation asks for them.

    Args:
        latency: Of the draft model; None: there is none, and guesses from the text cost nothing.
    """
    pools = config.pools
    return SimDrafts(
        max_tokens=config.speculation.max_tokens,
        chances=chances,
        latency=latency,
        is_remote=bool(pools.draft.workers),
        num_sharing=(pools.decode.workers + pools.mixed.workers) / max(pools.draft.workers, 1),
    )


def degrees_of(pool: PoolConfig) -> Parallelism:
    return Parallelism(tensor=pool.tensor_parallel, sequence=pool.sequence_parallel)


def pool_of(config: BatonConfig, role: Role) -> PoolConfig:
    """Of a role whose workers take requests."""
    pool: PoolConfig = getattr(config.pools, role.value)
    return pool


def worker_roles(config: BatonConfig) -> dict[str, Role]:
    """Ids as the fleet gives them."""
    return {f"{role}-{index}": role for role in SERVING_ROLES for index in range(pool_of(config, role).workers)}


def memory_shares(config: BatonConfig, shape: KVShape) -> MemoryShares:
    """As a worker counts them."""
    engine = config.engine
    found = share_memory(engine, token_nbytes=shape.token_bytes, state_nbytes=shape.state_bytes)
    needed = -(-engine.max_model_len // engine.block_size) if engine.max_model_len is not None else 1
    if found.num_blocks < needed:
        states = f"beside {shape.state_bytes} bytes of states for each of engine.max_sequences {engine.max_sequences}, "
        raise ConfigError(
            f"engine.memory: {engine.memory_bytes} bytes hold {found.num_blocks} KV blocks of "
            f"{engine.block_size * shape.token_bytes} bytes, {states if shape.state_bytes else ''}{needed} are needed; "
            f"raise engine.memory or lower engine.{'max_sequences' if shape.state_bytes else 'max_model_len'}"
        )
    return found


def max_model_len(config: BatonConfig, shape: KVShape) -> int:
    held = memory_shares(config, shape).num_blocks * config.engine.block_size
    return config.engine.max_model_len or min(shape.max_positions, held)
