"""The machines that `baton plan` plans for, and what a model costs on them: by a data sheet, or as profiled."""

from dataclasses import dataclass
from pathlib import Path

from baton.errors import ConfigError
from cluster.commands.cost_options import CostOptions, check_profile, read_profile
from cluster.commands.plan.options import KV_MEMORY, MachineOptions, SearchOptions
from cluster.config.load import load
from cluster.contracts.draft_chances import DraftChances
from cluster.models.model_file import read_model_spec
from cluster.planner.costs.devices import DeviceSpec, known_device
from cluster.planner.costs.fitted import Profile
from cluster.planner.costs.profile_costs import ACROSS_NODES, ProfileCosts
from cluster.planner.costs.spec_costs import SpecCosts
from cluster.planner.models.model_spec import ModelSpec
from cluster.planner.search.placement import Costs, Site

GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """`colocated_because`: why KV cannot move here, in words; empty: it can."""

    costs: Costs
    site: Site
    source: str  # of the costs, in words
    device: str  # auto | cpu | cuda: for the plan's config
    transport: str  # kv.transport, likewise
    kv_dtype: str  # kv.dtype, likewise
    colocated_because: str = ""
    max_layer_parallel: int = 0  # of draft workers; 0: none are to be planned


def read_costs(model: str, costs: CostOptions, machines: MachineOptions, search: SearchOptions) -> Priced:
    """Raises: ConfigError: an unknown model or device, or a profile that cannot be read or is of something else."""
    if costs.profile is not None:
        return _profiled(model, costs.profile, machines, search)
    assert costs.hardware is not None, "CostOptions.check asks for one of them"
    return _specified(model, costs.hardware, machines, search)


def _specified(model: str, hardware: str, machines: MachineOptions, search: SearchOptions) -> Priced:
    device = known_device(hardware)
    kv_dtype = machines.kv_dtype or "auto"
    device.check_kv_dtype(kv_dtype, "--kv-dtype")
    target = read_model_spec(model).with_kv(kv_dtype)
    draft = _draft_spec(search.draft, target, device).with_kv(kv_dtype) if search.draft else None
    per_node = machines.gpus_per_node or GPUS_PER_NODE
    return Priced(
        costs=SpecCosts(
            model=target,
            device=device,
            draft_model=draft,
            draft_acceptance=_acceptance(search),
        ),
        site=Site(
            num_nodes=machines.nodes,
            devices_per_node=per_node,
            node_bandwidth=per_node * device.network_bandwidth * device.efficiency.link,
            device_name=device.name,
            device_price_per_h=machines.price if machines.price is not None else device.price_per_h,
        ),
        source=f"{device.name} by its data sheet",
        device=device.runtime,
        transport="auto",
        kv_dtype=kv_dtype,
        max_layer_parallel=max(draft.num_layers - 2, 1) if draft is not None else 0,
    )


def _draft_spec(name: str, target: ModelSpec, device: DeviceSpec) -> ModelSpec:
    """Raises: ConfigError: no such model, or one that cannot draft for the target or on the device."""
    draft = read_model_spec(name)
    if draft.state_bytes:
        raise ConfigError(
            f"--draft {name}: has linear attention: a guess that proves wrong cannot be taken out of its states; give "
            "a model of softmax attention alone"
        )
    if draft.vocab_size != target.vocab_size:
        raise ConfigError(
            f"--draft {name}: its vocabulary has {draft.vocab_size} tokens, {target.name}'s has {target.vocab_size}; "
            "give a draft model with the same vocabulary"
        )
    if draft.weight_bytes > device.memory_bytes:
        raise ConfigError(
            f"--draft {name}: its weights are {draft.weight_bytes:,} bytes, {device.name} has "
            f"{device.memory_bytes:,}; give a smaller model"
        )
    return draft


def _acceptance(search: SearchOptions) -> DraftChances | None:
    text = search.draft_acceptance
    return DraftChances.read(text, "--draft-acceptance") if text is not None else None


def _profiled(model: str, path: Path, machines: MachineOptions, search: SearchOptions) -> Priced:
    assert machines.gpus_per_node is not None, "MachineOptions.check asks for it"
    profile = read_profile(path)
    check_profile(profile, model)
    draft = search.draft or ""
    costs = ProfileCosts(
        profile=profile,
        kv_bytes=_kv_bytes(machines.kv_memory or KV_MEMORY),
        draft_model=draft,
        draft_acceptance=profile.draft_chances(draft, _acceptance(search), asked=f"--draft {draft}") if draft else None,
    )
    within_node = machines.nodes == 1 and machines.gpus_per_node > 1
    transport = costs.transport(within_node=within_node)
    reached, measuring = "", "of a config with prefill and decode workers measures one"
    if not within_node:
        reached, measuring = f" that reaches another node ({', '.join(ACROSS_NODES)})", "without --quick measures them"
    return Priced(
        costs=costs,
        site=Site(
            num_nodes=machines.nodes,
            devices_per_node=machines.gpus_per_node,
            node_bandwidth=profile.transfers[transport].bandwidth if transport else 0.0,
            device_name="worker",
            device_price_per_h=machines.price,
        ),
        source=f"{profile.machine}, as profiled in {path.name}{_degrees(profile)}",
        device="auto",
        transport=transport or "auto",
        kv_dtype=profile.kv_dtype,
        colocated_because=""
        if transport
        else f"{path.name} has no measured KV transport{reached}; `baton profile` {measuring}",
        max_layer_parallel=1 if draft else 0,
    )


def _degrees(profile: Profile) -> str:
    """Those of workers that can be planned, where they are not plain ones alone."""
    return "" if list(profile.latencies) == ["1"] else f" (workers of degree {', '.join(profile.latencies)} alone)"


def _kv_bytes(size: str) -> int:
    try:
        return load(None, {"engine.memory": size}).engine.memory_bytes
    except ConfigError as error:
        raise ConfigError(error.message.replace("engine.memory: ", "--kv-memory ")) from error
