"""What `baton plan` is asked, read and checked: costs, machines, requests, SLO."""

from dataclasses import dataclass

import numpy as np

from baton.errors import ConfigError
from cluster.commands.arrivals import read_requests
from cluster.commands.cost_options import CostOptions, read_profile
from cluster.commands.load_options import LoadOptions
from cluster.commands.plan_options import MachineOptions, SearchOptions, SLOOptions
from cluster.config import EngineConfig
from cluster.planner import workload
from cluster.planner.candidates import Options
from cluster.planner.placement import Costs, DraftShape, Site
from cluster.planner.sampled import SampledWorkload
from cluster.planner.slo import SLO
from cluster.planner.trial import Question

NUM_SYNTHETIC = 4000
DRAFTS = tuple(DraftShape(layer_parallel=degree, num_drafts=ahead) for degree in (1, 2, 4) for ahead in (2, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as given."""

    model: str
    costs: CostOptions
    machines: MachineOptions
    load: LoadOptions
    slo: SLOOptions
    search: SearchOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    question: Question
    options: Options
    about: str  # where costs and requests come from, in a sentence
    notes: tuple[str, ...]
    device: str  # cuda | auto: for the plan's config
    transport: str  # kv.transport, likewise


def read_inputs(asked: Asked) -> Inputs:
    """
    Raises:
        ConfigError: Options that contradict each other, a file that is wrong, an unknown name.
    """
    from cluster.simulator.world import simulate

    _check(asked)
    is_measured = asked.costs.profile is not None
    costs, site, transport, source = _profiled(asked) if is_measured else _specified(asked)
    requests = read_requests(
        asked.load,
        num_synthetic=NUM_SYNTHETIC,
        seed=asked.search.seed,
        model=asked.model,
        max_model_len=costs.max_model_len,
        block_size=EngineConfig().block_size,
    )
    arrivals = workload.rescale(requests.arrivals, asked.load.rate or workload.mean_rate(requests.arrivals))
    question = Question(
        costs=costs,
        site=site,
        workload=SampledWorkload(arrivals),
        slo=_slo(asked.slo),
        rate=workload.mean_rate(arrivals),
        simulate=simulate,
        mean_prompt=float(np.mean([arrival.num_prompt_tokens for arrival in arrivals])),
        mean_output=float(np.mean([arrival.num_output_tokens for arrival in arrivals])),
        max_request_tokens=max(arrival.num_prompt_tokens + arrival.num_output_tokens for arrival in arrivals),
        seed=asked.search.seed,
    )
    search = asked.search
    return Inputs(
        question=question,
        options=Options(
            allow_pipeline=search.allow_pp, runnable_only=search.runnable_only, drafts=DRAFTS if search.draft else ()
        ),
        about=f"{asked.model} on {source}; {requests.described}",
        notes=tuple(requests.notes),
        device="auto" if is_measured else "cuda",
        transport=transport,
    )


def _check(asked: Asked) -> None:
    asked.costs.check()
    asked.load.check()
    asked.slo.check()
    asked.search.check()
    if asked.search.draft is not None and asked.costs.profile is not None:
        raise ConfigError(
            f"--draft {asked.search.draft}: profiles hold no layer-parallel drafts; give --hardware, or no draft"
        )


def _slo(options: SLOOptions) -> SLO:
    return SLO(ttft_s=options.slo_ttft / 1e3, tpot_s=options.slo_tpot / 1e3, attainment=options.attainment)


def _specified(asked: Asked) -> tuple[Costs, Site, str, str]:
    from cluster.model_file import read_model_spec
    from cluster.planner.devices import known_device
    from cluster.planner.spec_costs import SpecCosts

    machines, draft = asked.machines, asked.search.draft
    assert asked.costs.hardware is not None, "CostOptions.check asks for one of them"
    device = known_device(asked.costs.hardware)
    costs = SpecCosts(
        model=read_model_spec(asked.model),
        device=device,
        draft_model=read_model_spec(draft) if draft else None,
        draft_acceptance=asked.search.draft_acceptance or 0.0,
    )
    per_node = machines.gpus_per_node or 8
    site = Site(
        num_nodes=machines.nodes,
        devices_per_node=per_node,
        node_bandwidth=per_node * device.network_bandwidth * device.efficiency.link,
        device_name=device.name,
        device_price_per_h=machines.price if machines.price is not None else device.price_per_h,
    )
    return costs, site, "auto", f"{device.name} by its data sheet"


def _profiled(asked: Asked) -> tuple[Costs, Site, str, str]:
    from cluster.config_load import loads
    from cluster.planner.profile_costs import ProfileCosts

    machines, path = asked.machines, asked.costs.profile
    assert path is not None
    if machines.gpus_per_node is None:
        raise ConfigError("--gpus-per-node is needed with --profile: how many workers one machine holds, for example 2")
    profile = read_profile(path)
    profile.check_model(asked.model)
    costs = ProfileCosts(
        profile=profile, kv_bytes=loads(f"engine: {{memory: {machines.kv_memory}}}").engine.memory_bytes
    )
    transport = costs.transport(within_node=machines.nodes == 1)
    site = Site(
        num_nodes=machines.nodes,
        devices_per_node=machines.gpus_per_node,
        node_bandwidth=profile.transfers[transport].bandwidth,
        device_name="worker",
        device_price_per_h=machines.price,
    )
    return costs, site, transport, f"{profile.machine}, as profiled in {path.name}"
