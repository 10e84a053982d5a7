"""Where a simulated worker's costs come from: a measured profile, or a device's data sheet."""

from pathlib import Path

from baton.errors import ConfigError
from cluster.commands.cost_options import check_profile, read_profile
from cluster.config.schema import DEFAULT_DRAFTS, BatonConfig, PoolConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism, TransferModel
from cluster.contracts.overheads import Overheads
from cluster.contracts.simulation import SimCluster, SimDrafts
from cluster.fleet.cores import split
from cluster.models.model_file import read_model_spec
from cluster.planner.costs.devices import DeviceSpec, known_device
from cluster.planner.costs.fitted import FittedLatency, Profile, check_kv_profile
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.costs.transfer import path_between
from cluster.simulator.from_config import KVShape, degrees_of, drafts_of, sim_cluster

# From a caller to a worker's step, and from its end back, where nobody measured it: what `baton profile` finds between
# dispatcher and worker on a small CPU machine.
INGRESS_S = 5e-4


def from_profile(config: BatonConfig, path: Path, told: DraftChances | None = None) -> tuple[SimCluster, str]:
    """
    Args:
        told: How often drafts are right; None: as profiled, if they were.
    Raises:
        ConfigError: No profile can be read there, or it is of another model, dtype, transport or number of cores.
    """
    profile = read_profile(path)
    check_profile(profile, config.model)
    return profiled_cluster(config, profile, told), f"profile {path.name}"


def profiled_cluster(config: BatonConfig, profile: Profile, told: DraftChances | None = None) -> SimCluster:
    """
    Raises:
        ConfigError: The profile does not fit the config.
    """
    profile.check_model(config.model)
    if config.dtype not in ("auto", profile.dtype):
        raise ConfigError(
            f"dtype: {config.dtype} in the config, the profile is of {profile.dtype}; "
            "run `baton profile` with the config"
        )
    check_kv_profile(config.kv.dtype, profile)
    _check_cores(config, profile)

    def latency(degrees: Parallelism) -> FittedLatency:
        found = profile.latencies.get(str(degrees))
        if found is None:
            raise ConfigError(
                f"pools: the profile holds workers of degree {', '.join(profile.latencies)}, the config asks for "
                f"{degrees}; run `baton profile` with the config"
            )
        return found

    return sim_cluster(
        config,
        latency=latency,
        transfer=_transfer(config, profile),
        shape=KVShape(
            token_bytes=profile.token_bytes,
            state_bytes=profile.state_bytes,
            num_layers=profile.num_layers,
            max_positions=profile.max_model_len,
        ),
        overheads=profile.overheads,
        drafts=_profiled_drafts(config, profile, told),
    )


def _profiled_drafts(config: BatonConfig, profile: Profile, told: DraftChances | None) -> SimDrafts | None:
    draft = drafting_model(config)
    if not draft:
        return drafts_of(config, told, None) if told is not None else None
    if told is None and draft not in profile.acceptance:
        return None
    chances = profile.draft_chances(draft, told, asked=f"pools.draft.model: {draft}")
    return drafts_of(config, chances, profile.drafts[draft])


def drafting_model(config: BatonConfig) -> str:
    """The model that drafts under this config; empty: none does."""
    draft = config.pools.draft
    wanted = config.wants_draft_model or config.drafts_locally
    return draft.model or DEFAULT_DRAFTS.get(config.model, "") if wanted else ""


def _check_cores(config: BatonConfig, profile: Profile) -> None:
    for name in ("prefill", "decode", "mixed"):
        pool = getattr(config.pools, name)
        for cores in pool.cores or ():
            num_cores = len(split(cores, degrees_of(pool).num_devices)[0])
            if num_cores != profile.num_cores:
                raise ConfigError(
                    f"pools.{name}.cores: {num_cores} per rank, the profile is of {profile.num_cores}; "
                    "run `baton profile` with the config"
                )


def _transfer(config: BatonConfig, profile: Profile) -> TransferModel | None:
    if config.pools.mixed.workers:
        return None
    found = profile.transfers.get(config.kv.transport)
    if found is None:
        if not profile.transfers:
            raise ConfigError(
                "pools: the profile holds no KV transfers, prefill and decode workers need them; run `baton profile` "
                "with the config, or simulate pools.mixed alone"
            )
        raise ConfigError(
            f"kv.transport: {config.kv.transport} was not measured, the profile has {', '.join(profile.transfers)}; "
            "choose among them, or run `baton profile` with the config"
        )
    return found


def from_hardware(config: BatonConfig, hardware: str, told: DraftChances | None = None) -> tuple[SimCluster, str]:
    """One device per rank; KV goes over the link between two devices of a node.

    Raises:
        ConfigError: Unknown hardware or model, or weights and blocks that the device cannot hold.
    """
    device = known_device(hardware)
    device.check_kv_dtype(config.kv.dtype, "kv.dtype")
    model = read_model_spec(config.model, dtype=None if config.dtype == "auto" else config.dtype)
    model = model.with_kv(config.kv.dtype)
    needed = model.weight_bytes + config.engine.memory_bytes
    num_devices = min(degrees_of(pool).num_devices for pool in _pools(config))
    if needed > device.memory_bytes * num_devices:
        several = f"{num_devices} x " if num_devices > 1 else ""
        raise ConfigError(
            f"engine.memory: {config.engine.memory_bytes} bytes and {model.weight_bytes} bytes of {config.model}'s "
            f"weights are {needed}, {several}{device.name} has {device.memory_bytes * num_devices}; lower "
            "engine.memory, or give larger hardware"
        )
    sender, receiver = degrees_of(config.pools.prefill), degrees_of(config.pools.decode)
    cluster = sim_cluster(
        config,
        latency=lambda degrees: RooflineLatency.of(model, device, degrees),
        transfer=path_between(device, sender, receiver, within_node=True),
        shape=KVShape(
            token_bytes=model.kv_bytes_per_token,
            state_bytes=model.state_bytes,
            num_layers=max(model.num_kv_layers, 1),
            max_positions=model.max_model_len,
        ),
        overheads=Overheads(ingress_s=INGRESS_S),
        drafts=_specified_drafts(config, device, told),
    )
    return cluster, f"data sheet of {device.name}"


def _specified_drafts(config: BatonConfig, device: DeviceSpec, told: DraftChances | None) -> SimDrafts | None:
    """A draft worker of several ranks counts as one: its data sheet does not say what they save."""
    if told is None:
        return None
    draft = drafting_model(config)
    if not draft:
        return drafts_of(config, told, None)
    return drafts_of(
        config, told, RooflineLatency.of(read_model_spec(draft).with_kv(config.kv.dtype), device, Parallelism())
    )


def _pools(config: BatonConfig) -> list[PoolConfig]:
    pools = (config.pools.prefill, config.pools.decode, config.pools.mixed)
    return [pool for pool in pools if pool.workers]
