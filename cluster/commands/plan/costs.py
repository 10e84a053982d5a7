"""The machines that `baton plan` plans for, and what a model costs on them: by a data sheet, or as profiled."""

from dataclasses import dataclass
from pathlib import Path

from baton.errors import ConfigError
from cluster.commands.cost_options import CostOptions, check_profile, read_profile
from cluster.commands.plan.options import KV_MEMORY, MachineOptions, SearchOptions
from cluster.config.load import load
from cluster.models.model_file import read_model_spec
from cluster.planner.costs.devices import known_device
from cluster.planner.costs.fitted import Profile
from cluster.planner.costs.profile_costs import ACROSS_NODES, ProfileCosts
from cluster.planner.costs.spec_costs import SpecCosts
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
    colocated_because: str = ""


def read_costs(model: str, costs: CostOptions, machines: MachineOptions, search: SearchOptions) -> Priced:
    """Raises: ConfigError: an unknown model or device, or a profile that cannot be read or is of something else."""
    if costs.profile is not None:
        return _profiled(model, costs.profile, machines)
    assert costs.hardware is not None, "CostOptions.check asks for one of them"
    return _specified(model, costs.hardware, machines, search)


def _specified(model: str, hardware: str, machines: MachineOptions, search: SearchOptions) -> Priced:
    device = known_device(hardware)
    per_node = machines.gpus_per_node or GPUS_PER_NODE
    return Priced(
        costs=SpecCosts(
            model=read_model_spec(model),
            device=device,
            draft_model=read_model_spec(search.draft) if search.draft else None,
            draft_acceptance=search.draft_acceptance or 0.0,
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
    )


def _profiled(model: str, path: Path, machines: MachineOptions) -> Priced:
    assert machines.gpus_per_node is not None, "MachineOptions.check asks for it"
    profile = read_profile(path)
    check_profile(profile, model)
    costs = ProfileCosts(profile=profile, kv_bytes=_kv_bytes(machines.kv_memory or KV_MEMORY))
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
        colocated_because=""
        if transport
        else f"{path.name} has no measured KV transport{reached}; `baton profile` {measuring}",
    )


def _degrees(profile: Profile) -> str:
    """Those of workers that can be planned, where they are not plain ones alone."""
    return "" if list(profile.latencies) == ["1"] else f" (workers of degree {', '.join(profile.latencies)} alone)"


def _kv_bytes(size: str) -> int:
    try:
        return load(None, {"engine.memory": size}).engine.memory_bytes
    except ConfigError as error:
        raise ConfigError(error.message.replace("engine.memory: ", "--kv-memory ")) from error
