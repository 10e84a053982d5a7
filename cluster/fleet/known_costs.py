"""What the autopilot knows of its fleet before it has seen a step: the simulated workers, and what they cost."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from baton.errors import ConfigError
from baton.v1.worker_pb2 import WorkerState
from cluster.config.schema import BatonConfig, PlannerConfig, PoolConfig
from cluster.contracts.latency import LatencyModel, Parallelism
from cluster.contracts.overheads import ALONE, Overheads
from cluster.contracts.simulation import SimCluster, SimPool
from cluster.models.model_file import read_model_spec
from cluster.planner.costs.devices import known_device
from cluster.planner.costs.fitted import Profile, check_kv_profile
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.costs.transfer import Path as TransferPath
from cluster.planner.online.calibration import SeenLatency
from workers.spec import SERVING_ROLES, Role

UNSEEN = Overheads(ingress_s=5e-4)  # until requests tell
NOTHING = SeenLatency(prompt_s=0.0, token_s=0.0, decode_s=0.0, sequence_s=0.0)  # a twin puts what is known in its place


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCosts:
    """
    Attributes:
        latency: By role; empty: nothing is known.
        source: In words.
    """

    latency: dict[Role, LatencyModel] = field(default_factory=dict)
    transfer: TransferPath | None = None
    token_bytes: int = 0
    num_layers: int = 1
    overheads: Overheads = UNSEEN
    source: str = "steps as they are seen"


def known_costs(config: BatonConfig) -> KnownCosts:
    """
    Raises:
        ConfigError: `planner.profile` or `planner.hardware`: there is none, or it is of something else.
    """
    planner = config.planner
    if planner.profile:
        return _profiled(config, planner)
    if planner.hardware:
        return _by_hardware(config, planner)
    return KnownCosts()


def _profiled(config: BatonConfig, planner: PlannerConfig) -> KnownCosts:
    try:
        profile = Profile.from_text(Path(planner.profile).read_text(encoding="utf-8"), planner.profile)
        profile.check_model(config.model)
        check_kv_profile(config.kv.dtype, profile)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"planner.profile: {planner.profile} cannot be read on the head node: {reason}; make one with "
            "`baton profile`"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"planner.profile: {error.message}; run `baton profile` with the config") from error
    pools = {Role(name): _degrees(pool) for name, pool in config.pools.serving()}
    missing = [degrees for degrees in pools.values() if str(degrees) not in profile.latencies]
    if missing:
        raise ConfigError(
            f"planner.profile: {planner.profile} has no workers of {missing[0]}; run `baton profile` with the config"
        )
    return KnownCosts(
        latency={role: profile.latencies[str(degrees)] for role, degrees in pools.items()},
        transfer=profile.transfers.get(config.kv.transport),
        token_bytes=profile.token_bytes,
        num_layers=profile.num_layers,
        overheads=replace(profile.overheads, contention=ALONE),  # steps as they are seen tell of neighbours
        source=f"profile {planner.profile}, corrected by steps as they are seen",
    )


def _by_hardware(config: BatonConfig, planner: PlannerConfig) -> KnownCosts:
    try:
        device = known_device(planner.hardware)
        device.check_kv_dtype(config.kv.dtype, "kv.dtype")
        model = read_model_spec(config.model, dtype=None if config.dtype == "auto" else config.dtype)
        model = model.with_kv(config.kv.dtype)
    except ConfigError as error:
        raise ConfigError(f"planner.hardware: {planner.hardware}: {error.message}") from error
    latency: dict[Role, LatencyModel] = {
        Role(name): RooflineLatency.of(model, device, _degrees(pool)) for name, pool in config.pools.serving()
    }
    return KnownCosts(
        latency=latency,
        token_bytes=model.kv_bytes_per_token,
        num_layers=max(model.num_kv_layers, 1),
        source=f"data sheet of {device.name}, corrected by steps as they are seen",
    )


def base_cluster(config: BatonConfig, costs: KnownCosts, states: Iterable[WorkerState]) -> SimCluster | None:
    """The fleet to simulate, as its workers report themselves; None: no worker has yet."""
    state = next((state for state in states if state.num_blocks), None)
    if state is None:
        return None
    return SimCluster(
        pools=tuple(
            SimPool(
                role=role,
                num_workers=getattr(config.pools, role.value).workers,
                latency=costs.latency.get(role, NOTHING),
                num_blocks=state.num_blocks,
                num_states=state.num_states,
            )
            for role in SERVING_ROLES
        ),
        engine=config.engine,
        router=config.router,
        kv=config.kv,
        health=config.health,
        max_model_len=state.max_model_len,
        num_layers=costs.num_layers,
        token_bytes=costs.token_bytes,
        transfer=costs.transfer,
        ingress_s=costs.overheads.ingress_s,
        handover_s=costs.overheads.handover_s,
        receive_s=costs.overheads.receive_s,
    )


def roles_change(config: BatonConfig) -> bool:
    """Whether a worker of one pool costs in the other what that one's own do, so that it may go over."""
    pools = config.pools
    return _degrees(pools.prefill) == _degrees(pools.decode) and pools.prefill.sequence_parallel == 1


def _degrees(pool: PoolConfig) -> Parallelism:
    return Parallelism(tensor=pool.tensor_parallel, sequence=pool.sequence_parallel)
